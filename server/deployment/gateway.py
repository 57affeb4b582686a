"""The door: the one address that sites reach. It lets Flower's paths for sites through to the SuperLink, and admits invited ones.

Example::

    python -m fedrelease.server.deployment.gateway FOLDER

The SuperLink has one port for everything, and some of it asks nobody who they are: starting runs, registering keys, tasks of
executors. So it listens on loopback, and here only the paths that a SuperNode needs pass; each of these it signs with its key,
which is checked here before its body is read, and by the SuperLink. [Flower 1.41: ``flwr/superlink/routers``]
"""

import asyncio
import json
import re
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedrelease import __version__
from fedrelease.deployment.bundle import bundle
from fedrelease.deployment.logs import Log
from fedrelease.errors import FedreleaseError
from fedrelease.files import Json
from fedrelease.server.deployment.askers import Askers
from fedrelease.server.deployment.callers import Callers, clock_fault, in_own_name
from fedrelease.server.deployment.control import Control
from fedrelease.server.deployment.folder import Server, check_address, open_server
from fedrelease.server.deployment.patience import patient
from fedrelease.server.deployment.planned import told_plan
from fedrelease.server.deployment.register import admit, admitted, renew_site

__all__ = ["Gateway", "gateway", "main"]

SITES_PATH = re.compile(r"/v1/fleet/[a-z-]{1,60}")
SELF_REGISTRATION = re.compile(r"/v1/fleet/(un)?register-node")
"""Flower's way in for nodes without a key of their own: nobody here has it."""
HEADERS_BYTES = 16 << 10
FLOWER = metadata.version("flwr")
ENROL_BYTES = 16 << 10
MOST_DIGITS = 12
ANSWER_S = 60.0
BODY_S = 120.0
"""For a body that arrives slowly; 16 MB in that time are 1 Mbit a second."""
REFUSED = {401: "the SuperLink does not know the key", 403: "the run that this is about is over"}
"""What the SuperLink means by them."""
OF_SITES = re.compile(r"content-type|flwr-(?!task-token|superexec)[a-z0-9-]{1,60}")
"""Headers that pass: Flower's own, but none with which an executor proves who it is."""


@final
class Gateway:
    """What passes, and what is refused with a line in the log."""

    def __init__(self, server: Server) -> None:
        """Nothing listens yet."""
        self._server = server
        self._log = Log(server.log_folder / "gateway.log", process="gateway")
        self._most = server.settings.message_mb << 20
        self._callers, self._askers = Callers(server), Askers(server)
        self._admitting = threading.Lock()
        self._upstream = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{server.settings.superlink_port}",
            verify=ssl.create_default_context(cafile=str(server.authority_file)),
            timeout=ANSWER_S,
            limits=httpx.Limits(max_connections=server.settings.connections),
            trust_env=False,
        )

    async def forward(self, request: Request) -> Response:
        """Pass a site's request on, if its path is one of those."""
        path = request.scope["raw_path"].decode("ascii", "replace").partition("?")[0]
        if not SITES_PATH.fullmatch(path) or SELF_REGISTRATION.fullmatch(path):
            return self._refuse(request, 403, "no path of sites")
        if sum(len(name) + len(value) for name, value in request.headers.raw) > HEADERS_BYTES:
            return self._refuse(request, 431, f"more than {HEADERS_BYTES} bytes of headers")
        if self._callers.site_of(request.headers) is None:
            return self._refuse(request, 401, "not signed with the key of an admitted site")
        if (fault := clock_fault(request.headers, now=datetime.now(UTC))) is not None:
            return self._refuse(request, 401, fault)
        body = await self._body(request, self._most)
        return body if isinstance(body, Response) else await self._passed(request, path, body)

    async def _passed(self, request: Request, path: str, body: bytes) -> Response:
        """What the SuperLink answers to a site."""
        try:
            own = in_own_name(path, body)
        except ValueError as error:
            return self._refuse(request, 400, str(error))
        if not own:
            return self._refuse(request, 403, "a reply in the name of another site")
        headers = [(name, value) for name, value in request.headers.raw if _passes(name)]
        try:
            answer = await self._upstream.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            return self._refuse(request, 503, f"the SuperLink does not answer: {type(error).__name__}")
        if (why := REFUSED.get(answer.status_code)) is not None:
            return self._refuse(request, answer.status_code, why, answer.content)
        if answer.status_code >= 400:
            self._note(request, answer.status_code, "the SuperLink refuses")
        kind = answer.headers.get("content-type", "application/octet-stream")
        return Response(answer.content, status_code=answer.status_code, media_type=kind)

    async def elsewhere(self, request: Request, error: Exception) -> Response:
        """Refuse what has no place here: other methods, and paths that are none."""
        del error
        return self._refuse(request, 403, "no path of sites")

    async def enrol(self, request: Request) -> Response:
        """Admit a site that has an invitation: its name, the token, and a signing request; the answer is its certificate."""
        body = await self._body(request, ENROL_BYTES)
        if isinstance(body, Response):
            return body
        try:
            asked = json.loads(body)
            site, token, signing = (str(asked[key]) for key in ("site", "token", "request"))
            (site + token + signing).encode()  # JSON may spell what is no text
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._refuse(request, 400, "an enrolment has site, token and request")
        try:
            certificate = await run_in_threadpool(self._admit, site, token, signing.encode())
        except FedreleaseError as error:
            return self._refuse(request, 403, f"{error.what}: {site[:60]}", json.dumps(error.to_json()).encode())
        self._log("admitted", peer=_peer(request), site=site)
        return JSONResponse({"certificate": certificate, "server": __version__, "bundle": bundle().digest})

    async def renew(self, request: Request) -> Response:
        """A new certificate for the key of an admitted site, which signs that it wants one."""
        return await self._told(request, "renewed", self._renew)

    async def plan(self, request: Request) -> Response:
        """What this server's run will ask, for an admitted site, which signs that it wants to know."""
        return await self._told(request, "told-plan", self._plan)

    async def _told(
        self, request: Request, event: str, answer: Callable[[bytes], tuple[str, Mapping[str, Json]]]
    ) -> Response:
        """What ``answer`` makes of a signed question: who asked, and what comes back."""
        body = await self._body(request, ENROL_BYTES)
        if isinstance(body, Response):
            return body
        try:
            site, facts = await run_in_threadpool(answer, body)
        except FedreleaseError as error:
            why = f"{error.what}: {error.value}" if error.value is not None else error.what
            return self._refuse(request, 403, why, json.dumps(error.to_json()).encode())
        self._log(event, peer=_peer(request), site=site)
        return JSONResponse(facts)

    async def health(self, request: Request) -> Response:
        """Whether the SuperLink behind is well; and the time here, so that a site can compare clocks."""
        try:
            well = (await self._upstream.get("/health")).status_code == 200
        except httpx.HTTPError:
            well = False
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        versions = {"fedrelease": __version__, "flower": FLOWER, "bundle": bundle().digest}
        facts = {"ok": well, "time": now, **versions}
        return JSONResponse(facts, status_code=200 if well else 503)

    def _renew(self, body: bytes) -> tuple[str, Mapping[str, Json]]:
        now = datetime.now(UTC)
        with self._admitting:
            asker = self._askers.asker(body, what="renew", now=now)
            shown = asker.certificate
            made = renew_site(self._server, site=asker.site, key=asker.key, shown=shown, now=now)
        return asker.site, {"certificate": made}

    def _plan(self, body: bytes) -> tuple[str, Mapping[str, Json]]:
        with self._admitting:
            asker = self._askers.asker(body, what="plan", now=datetime.now(UTC))
        return asker.site, told_plan(self._server)

    def _admit(self, site: str, token: str, signing: bytes) -> str:
        with self._admitting:
            certificate = admit(self._server, site=site, token=token, request=signing, now=datetime.now(UTC))
            try:
                with Control(self._server) as control:
                    control.register(admitted(self._server))
            except httpx.HTTPError as error:  # it is admitted all the same, and registered when the SuperLink is back
                self._log("not-registered-yet", site=site, why=type(error).__name__)
            return certificate

    async def _body(self, request: Request, most: int) -> bytes | Response:
        """The request's body; a refusal of one that is larger, before it is all there."""
        told = request.headers.get("content-length", "0")
        if "transfer-encoding" in request.headers and "content-length" in request.headers:
            return self._refuse(request, 400, "two lengths of one body")
        if len(told) > MOST_DIGITS or int(told) > most:  # digits: h11 lets nothing else through
            return self._refuse(request, 413, f"more than {most} bytes")
        try:
            async with asyncio.timeout(BODY_S):
                return await self._read(request, most)
        except ClientDisconnect:
            return self._refuse(request, 400, "it broke off")
        except TimeoutError:
            return self._refuse(request, 408, f"not there after {BODY_S:g} s")

    async def _read(self, request: Request, most: int) -> bytes | Response:
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                return self._refuse(request, 413, f"more than {most} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def _refuse(self, request: Request, status: int, why: str, content: bytes | None = None) -> Response:
        """A refusal ends the connection: what else is on its way is not read."""
        self._note(request, status, why)
        text = content if content is not None else why.encode()
        return Response(text, status_code=status, headers={"connection": "close"})

    def _note(self, request: Request, status: int, why: str) -> None:
        path = request.scope["raw_path"].decode("ascii", "replace")
        self._log("refused", peer=_peer(request), method=request.method, path=path, status=status, why=why)

    @asynccontextmanager
    async def lifespan(self, application: Starlette) -> AsyncIterator[None]:
        """Close the connections behind when all is over."""
        del application
        yield
        await self._upstream.aclose()


def gateway(server: Server) -> Starlette:
    """The gateway of a server as an ASGI application."""
    made = Gateway(server)
    return Starlette(
        routes=[
            Route("/health", made.health, methods=["GET"]),
            Route("/enrol", made.enrol, methods=["POST"]),
            Route("/renew", made.renew, methods=["POST"]),
            Route("/plan", made.plan, methods=["POST"]),
            Route("/{path:path}", made.forward, methods=["POST"]),
        ],
        exception_handlers={404: made.elsewhere, 405: made.elsewhere},
        lifespan=made.lifespan,
    )


def _passes(name: bytes) -> bool:
    return OF_SITES.fullmatch(name.decode("latin-1").lower()) is not None


def _peer(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def main(folder: Path) -> None:
    """Serve until a signal comes."""
    server = open_server(folder)
    host, port = check_address(server.settings.listen, "listen")
    uvicorn.run(
        gateway(server),
        host=host,
        port=port,
        ssl_certfile=str(server.certificate_file),
        ssl_keyfile=str(server.key_file),
        http=patient(server.settings.patience_s, connections=server.settings.connections),
        ws="none",
        access_log=False,
        server_header=False,
        limit_concurrency=server.settings.connections,
        timeout_keep_alive=75,
        log_level="warning",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
