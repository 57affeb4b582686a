"""A real SuperLink behind a real gateway, two real sites of it, and ways to send what no honest site would."""

import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from fedrelease.client.deployment.enrol import enrol, site_key
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.deployment.invitation import Invitation
from fedrelease.deployment.logs import Log
from fedrelease.deployment.processes import Processes
from fedrelease.server.deployment.folder import Server, Settings, make_server
from fedrelease.server.deployment.register import invite
from fedrelease.server.deployment.start import server_programs

MEGABYTE = 1 << 20
PATIENCE_S = 1.0
CONNECTIONS = 32
TYPE = "application/protobuf"


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A server that is up, and two sites that it admitted, with their nodes."""

    server: Server
    amazon: SiteFolder
    movie: SiteFolder
    nodes: dict[str, int]
    gateway_process: int

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.server.settings.listen.rpartition(":")
        return host, int(port)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.server.authority_file))

    def client(self, *, source: str = "127.0.0.1") -> httpx.Client:
        """From another address of this machine, if you like."""
        way = httpx.HTTPTransport(verify=self.trust(), local_address=source, trust_env=False)
        return httpx.Client(base_url=f"https://{self.server.settings.listen}", transport=way, timeout=20)

    def post(self, path: str, body: bytes, *, headers: dict[str, str] | None = None) -> httpx.Response:
        with self.client() as client:
            return client.post(path, content=body, headers={"content-type": TYPE, **(headers or {})})

    def fleet(self, verb: str, body: bytes, *, key: ec.EllipticCurvePrivateKey | None = None) -> httpx.Response:
        headers = signed(key or site_key(self.amazon))
        return self.post(f"/v1/fleet/{verb}", body, headers=headers)

    def connected(self) -> ssl.SSLSocket:
        """A connection over TLS, on which anything can be said."""
        return self.trust().wrap_socket(socket.create_connection(self.address, timeout=20), server_hostname="127.0.0.1")

    def raw(self, request: bytes) -> bytes:
        """Send bytes over TLS, and read until the other side closes."""
        with self.connected() as secure:
            secure.sendall(request)
            return everything(secure)

    def lines(self) -> list[dict[str, object]]:
        """What the gateway wrote down."""
        path = self.server.log_folder / "gateway.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def serves(self) -> bool:
        """Whether an honest site gets its answer from the SuperLink behind."""
        body = SendNodeHeartbeatRequest(node=Node(node_id=self.nodes["amazon"]), heartbeat_interval=30.0)
        answer = self.fleet("send-node-heartbeat", body.SerializeToString())
        return answer.status_code == 200 and answer.content != b""

    def invited(self, site: str, *, again: bool = False, days: float = 1.0) -> Invitation:
        return invite(self.server, site, days=days, now=datetime.now(UTC), again=again)


def everything(secure: ssl.SSLSocket) -> bytes:
    """All that comes until the end, however it comes to an end."""
    pieces = []
    try:
        while piece := secure.recv(65536):
            pieces.append(piece)
    except OSError:
        pass
    return b"".join(pieces)


def signed(key: ec.EllipticCurvePrivateKey, *, ago: timedelta = timedelta()) -> dict[str, str]:
    """The headers with which a SuperNode says who it is."""
    moment = (datetime.now(UTC) - ago).isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, moment.encode())).decode(),
        TIMESTAMP_HEADER: moment,
    }


@contextmanager
def attacked(folder: Path) -> Iterator[Attacked]:
    first, second = free_ports(2)
    settings = Settings(
        names=("127.0.0.1",),
        listen=f"127.0.0.1:{first}",
        superlink_port=second,
        message_mb=1,
        connections=CONNECTIONS,
        patience_s=PATIENCE_S,
    )
    server = make_server(folder / "server", settings=settings, now=datetime.now(UTC))
    programs = {program.name: program for program in server_programs(server)}
    with Processes(log=Log(server.log_folder / "server.log", process="server")) as processes:
        for program in (programs["superlink"], programs["gateway"]):
            processes.start(program)
        wait_until_healthy(server)
        sites = {
            name: enrol(invite(server, name, days=1, now=datetime.now(UTC)), folder / name)
            for name in ("amazon", "movie")
        }
        made = Attacked(server=server, **sites, nodes={}, gateway_process=processes.ids()["gateway"])
        for name, site in sites.items():
            made.nodes[name] = activated(made, site)
        yield made
        assert processes.started("superlink") == processes.started("gateway") == 1
        assert processes.alive("superlink") and processes.alive("gateway")


def activated(server: Attacked, site: SiteFolder) -> int:
    key = site_key(site)
    body = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=300.0)
    answer = server.fleet("activate-node", body.SerializeToString(), key=key)
    return int(ActivateNodeResponse.FromString(answer.content).node_id)


def wait_until_healthy(server: Server) -> None:
    trust = ssl.create_default_context(cafile=str(server.authority_file))
    with httpx.Client(base_url=f"https://{server.settings.listen}", verify=trust, trust_env=False) as client:
        for _ in range(300):
            try:
                if client.get("/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    raise AssertionError((server.log_folder / "superlink.out").read_text()[-2000:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all of them are held until the last is known."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
