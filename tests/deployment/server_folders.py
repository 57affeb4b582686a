"""Folders of a server and its sites as ``init``, ``invite`` and ``enrol`` make them, and the logs of a run; nothing listens.

Example::

    server = server_folder(tmp_path, port=9443)
    site = site_folder(server, tmp_path, "a", source=rows)
    write_run(server, sites=("a", "b"))
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedrelease.client.deployment.folder import SiteFolder, SiteSettings, site_toml
from fedrelease.deployment.bundle import bundle
from fedrelease.deployment.certificates import new_key, signing_request
from fedrelease.deployment.logs import Log
from fedrelease.server.deployment.folder import Server, Settings, make_server
from fedrelease.server.deployment.register import admit, invite
from fedrelease.server.events import Event, Opened, Released, RoundStarted, SiteAnswered, event_facts

WAIT_S = 20.0


def server_folder(folder: Path, *, port: int = 9, metrics: str = "") -> Server:
    """A new server for 127.0.0.1."""
    settings = Settings(
        name="trial", names=("127.0.0.1",), listen=f"127.0.0.1:{port}", superlink_port=1, metrics=metrics
    )
    return make_server(folder / "server", settings=settings, now=datetime.now(UTC))


def site_folder(server: Server, folder: Path, name: str, **settings: str) -> SiteFolder:
    """A site that was admitted, as ``site init`` leaves it."""
    now, key = datetime.now(UTC), new_key()
    invitation = invite(server, name, days=1, now=now)
    request = signing_request(name, key)
    certificate = admit(server, site=name, token=invitation.token, request=request, now=now)
    chosen = SiteSettings(site=name, server=server.settings.listen, federation="trial", bundle=bundle().digest)
    site = SiteFolder(folder=folder / name, settings=replace(chosen, **settings))  # type: ignore[arg-type]  # texts
    site.folder.mkdir(mode=0o700)
    site.authority_file.write_bytes(server.authority_file.read_bytes())
    site.certificate_file.write_text(certificate)
    site.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    site.secret_file.write_text("0" * 64)
    for path in (site.key_file, site.secret_file):
        path.chmod(0o600)
    (site.folder / "site.toml").write_text(site_toml(site.settings))
    return site


def released(version: str, *, held: str | None = None) -> Released:
    return Released(
        version=version,
        digest=f"sha256:{version.replace('.', '') * 8}",
        metrics={"accuracy": 0.75},
        epsilon=4.5,
        bytes_up=1000,
        bytes_down=3000,
        seconds=20.0,
        held=held,
    )


def answered(version: str, step: str, site: str, *, refused: str | None = None, epsilon: float | None = 3.0) -> Event:
    return SiteAnswered(version=version, step=step, site=site, refused=refused, epsilon=None if refused else epsilon)


def write_run(server: Server, *, pid: int = 4711) -> None:
    """The logs of a run of a and b: 0.0.0 and 0.1.1 were made, the second one held; 0.1.2 waits for b to train."""
    log = Log(server.log_folder / "server.log", process="server")
    log("started", pid=pid, store="/releases")
    for name in ("superlink", "superexec", "gateway", "superlink"):
        log("process-started", name=name, pid=2**22 + 1)  # no process has such a number
    log("process-ended", name="superlink", status=-9, again_in_s=1.0)
    log("run-started", run="77")
    events = Log(server.log_folder / "events.log", process="serverapp", run="77")
    for event in (
        Opened(head=None, resumed=False, sites=("a", "b"), rounds=3, rounds_done=0),
        released("0.0.0"),
        RoundStarted(version="0.1.1", phase="main", round=1, cohort=("a", "b"), spooled=()),
        answered("0.1.1", "train", "a", epsilon=4.25),
        answered("0.1.1", "train", "b", refused="no answer within 60 s"),
        released("0.1.1", held="worse than 0.0.0"),
        RoundStarted(version="0.1.2", phase="main", round=2, cohort=("a", "b"), spooled=()),
        answered("0.1.2", "train", "a", epsilon=4.5),
    ):
        facts = dict(event_facts(event))
        events(str(facts.pop("event")), **facts)
    gate = Log(server.log_folder / "gateway.log", process="gateway")
    for status, path in ((403, "/v1/control/start-run"), (403, "/v1/control/stop-run"), (413, "/v1/fleet/push-object")):
        gate("refused", peer="10.0.0.9", method="POST", path=path, status=status, why="no path of sites")


@contextmanager
def running_gateway(server: Server) -> Iterator[None]:
    """The gateway of a server as a process of its own, over TLS; no SuperLink is behind it."""
    host, port = server.settings.listen.split(":")
    command = [sys.executable, "-P", "-m", "fedrelease.server.deployment.gateway", str(server.folder)]
    with subprocess.Popen(command) as process:
        try:
            until = time.monotonic() + WAIT_S
            while not listens(host, int(port)):
                assert process.poll() is None, "the gateway ended"
                assert time.monotonic() < until, "the gateway does not listen"
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def listens(host: str, port: int) -> bool:
    """Whether anybody takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
