"""What the tests of the release service share: a server with releases and a base, sites with keys, and a line that breaks."""

import asyncio
import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

from cryptography.hazmat.primitives.asymmetric import ec
from example_store import publish

from fedrelease.client.deployment.fetch import connect_releases
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings, site_toml
from fedrelease.deployment.certificates import new_key, private_openssh, signing_request
from fedrelease.deployment.release_client import ReleaseClient, RemoteFile
from fedrelease.server.deployment.folder import Server, Settings, make_server
from fedrelease.server.deployment.register import admit, invite
from fedrelease.server.deployment.release_access import Limits
from fedrelease.server.deployment.release_index import write_served
from fedrelease.server.deployment.release_service import release_server
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store

NOW = datetime.now(UTC)
MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A server, its store and base, and a site that it admitted."""

    server: Server
    store: Store
    base: Path
    site: SiteFolder


def make_federation(folder: Path, *, weights: bytes, rounds: int = 2) -> Federation:
    """Nothing listens; what is made is signed with the keys in ``folder/keys``."""
    server = make_server(folder / "server", settings=Settings(names=("127.0.0.1",)), now=NOW)
    store = Store.create_or_open(folder / "releases", signer=own_signer(folder / "keys"))
    with store.lock():
        for round in range(rounds + 1):
            publish(store, round, told=True)
    base = make_base(folder / "base", weights)
    write_served(server, store=store.folder, base=base)
    return Federation(server=server, store=store, base=base, site=make_site(server, "amazon", folder / "amazon"))


def make_base(folder: Path, weights: bytes) -> Path:
    """A folder that opens as a base; nobody computes with it here."""
    files = {"config.json": b'{"model_type":"bert"}', "vocab.txt": b"a\nb\n", "1_Pooling/config.json": b"{}"}
    for name, data in {**files, "model.safetensors": weights}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_site(server: Server, name: str, folder: Path) -> SiteFolder:
    """A site with a key that the server admitted, as ``site init`` leaves it."""
    invitation = invite(server, name, days=1, now=NOW)
    key = new_key()
    certificate = admit(server, site=name, token=invitation.token, request=signing_request(name, key), now=NOW)
    return write_site(folder, name, key, authority=invitation.authority, certificate=certificate)


def write_site(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, *, authority: str, certificate: str
) -> SiteFolder:
    settings = SiteSettings(site=name, server="127.0.0.1:1", releases="127.0.0.1:1")
    folder.mkdir()
    site = SiteFolder(folder=folder, settings=settings)
    site.key_file.write_bytes(private_openssh(key))
    site.authority_file.write_text(authority)
    site.certificate_file.write_text(certificate)
    return at_port(site, 1)


def at_port(site: SiteFolder, port: int) -> SiteFolder:
    """The site, whose release service is there from now on."""
    settings = SiteSettings(site=site.settings.site, server="127.0.0.1:1", releases=f"127.0.0.1:{port}")
    (site.folder / "site.toml").write_text(site_toml(settings))
    return SiteFolder(folder=site.folder, settings=settings)


def client_of(site: SiteFolder, port: int, *, patience_s: float = 1.0) -> ReleaseClient:
    return connect_releases(at_port(site, port), patience_s=patience_s)


@contextmanager
def serving(server: Server, limits: Limits = Limits()) -> Iterator[int]:  # noqa: B008
    """The real service on a free port, while the block runs."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), list[int]()
    over = asyncio.Event()

    async def serve() -> None:
        made, port = await release_server(server, address="127.0.0.1:0", limits=limits)
        ports.append(port)
        ready.set()
        await over.wait()
        await made.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(20)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def random_bytes(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def remote(data: bytes) -> RemoteFile:
    return RemoteFile(name="", sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def in_days(days: float) -> datetime:
    return NOW + timedelta(days=days)


@final
class BrokenLine:
    """A TCP line to a port that breaks after so many bytes, so many times; or one bit of which flips there."""

    def __init__(self, to: int, *, after: int, times: int, flip: bool = False) -> None:
        self._to, self._after, self._flip = to, after, flip
        self.left, self.passed = times, 0
        self._lock, self._over = threading.Lock(), False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = [self._listener]

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._sockets += [near, far]
            for pump, pair in ((self._up, (near, far)), (self._down, (far, near))):
                thread = threading.Thread(target=pump, args=pair)
                self._threads.append(thread)
                thread.start()

    def _up(self, source: socket.socket, target: socket.socket) -> None:
        self._pump(source, target, breaks=False)

    def _down(self, source: socket.socket, target: socket.socket) -> None:
        self._pump(source, target, breaks=True)

    def _pump(self, source: socket.socket, target: socket.socket, *, breaks: bool) -> None:
        here = 0
        try:
            while data := source.recv(1 << 16):
                here += len(data)
                if breaks:
                    self.passed += len(data)
                    if here > self._after and self._takes():
                        if not self._flip:
                            break
                        data = bytes([data[0] ^ 1]) + data[1:]
                        here = 0
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _takes(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0

    def __enter__(self) -> "BrokenLine":
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()
