"""How fast a base goes through the release service, next to a plain copy over TLS, and what memory either side takes.

Example::

    python -m fedrelease.simulations.bench.releases                    # 500 MB, three times each, in turns
    python -m fedrelease.simulations.bench.releases --megabytes 50 --json

The plain copy is what scp would do: one process reads a file and writes it to a TLS socket, another reads that and writes a file.
It compares no digest and does not wait for the disk; the service's side does both.
"""

import argparse
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory

from fedrelease.client.deployment.enrol import site_key
from fedrelease.client.deployment.fetch import connect_releases, fetch_base
from fedrelease.client.deployment.folder import SiteFolder, SiteSettings, open_site_folder, site_toml
from fedrelease.deployment.certificates import new_key, private_openssh, signing_request
from fedrelease.deployment.processes import module
from fedrelease.errors import EngineError, FedreleaseError
from fedrelease.server.deployment.folder import Server, Settings, make_server
from fedrelease.server.deployment.register import admit, invite
from fedrelease.server.deployment.release_index import write_served
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.scaled import at_least_one

__all__ = ["Measured", "main", "measure", "moved", "peak_mb", "running_service", "small_federation"]

OWN = "fedrelease.simulations.bench.releases"
MEGABYTE = 1 << 20
READY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of each copy, ours and the plain one in turns; the most memory of either side of ours in MB."""

    ours_s: tuple[float, ...]
    plain_s: tuple[float, ...]
    server_mb: float
    client_mb: float

    @property
    def speed(self) -> float:
        """Ours as a share of the plain copy's, each its median."""
        return median(self.plain_s) / median(self.ours_s)


def measure(folder: Path, *, megabytes: int, repeats: int) -> Measured:
    """Copy a base of so many MB both ways.

    Raises:
        EngineError: a process did not do its part.
    """
    server, site = small_federation(folder, megabytes=megabytes)
    ours, plain, client_mb = [], [], 0.0
    with running_service(server) as (pid, port):
        for turn in range(repeats):
            here = moved(site, folder / f"site-{turn}", port)
            told = _child("fetch", str(here.folder))
            rmtree(here.folder)
            ours.append(told["seconds"])
            client_mb = max(client_mb, told["peak_mb"])
            plain.append(_plain(server, folder))
        server_mb = peak_mb(pid)
    return Measured(ours_s=tuple(ours), plain_s=tuple(plain), server_mb=server_mb, client_mb=client_mb)


def small_federation(folder: Path, *, megabytes: int) -> tuple[Server, SiteFolder]:
    """A server with a base of random bytes and no release, and a site that it admitted."""
    now = datetime.now(UTC)
    server = make_server(folder / "server", settings=Settings(names=("127.0.0.1",), releases=_free_address()), now=now)
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "bert"}')
    (base / "vocab.txt").write_text("a\n")
    with (base / "model.safetensors").open("wb") as weights:
        for _ in range(megabytes):
            weights.write(os.urandom(MEGABYTE))
    write_served(server, store=folder / "releases", base=base)
    invitation, key = invite(server, "bench", days=1, now=now), new_key()
    certificate = admit(server, site="bench", token=invitation.token, request=signing_request("bench", key), now=now)
    site = SiteFolder(folder=folder / "site", settings=SiteSettings(site="bench", server=invitation.server))
    site.folder.mkdir()
    site.key_file.write_bytes(private_openssh(key))
    site.certificate_file.write_text(certificate)
    site.authority_file.write_text(invitation.authority)
    return server, moved(site, site.folder, int(server.settings.releases.rpartition(":")[2]))


def moved(site: SiteFolder, folder: Path, port: int) -> SiteFolder:
    """The same site in another folder, where the service is at another port."""
    there = SiteFolder(folder=folder, settings=replace(site.settings, releases=f"127.0.0.1:{port}"))
    folder.mkdir(exist_ok=True)
    for old, new in (
        (site.key_file, there.key_file),
        (site.certificate_file, there.certificate_file),
        (site.authority_file, there.authority_file),
    ):
        new.write_bytes(old.read_bytes())
    (folder / "site.toml").write_text(site_toml(there.settings))
    return there


@contextmanager
def running_service(server: Server) -> Iterator[tuple[int, int]]:
    """The process id and port of a real release service while the block runs.

    Raises:
        EngineError: it does not listen.
    """
    port = int(server.settings.releases.rpartition(":")[2])
    process = subprocess.Popen(module("fedrelease.server.deployment.release_service", str(server.folder)))
    try:
        until = time.monotonic() + READY_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise EngineError("the release service does not listen", value=port)
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def peak_mb(pid: int) -> float:
    """The most resident memory of a process since it began, in MB of a million bytes; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def _plain(server: Server, folder: Path) -> float:
    """Seconds of the same bytes over a TLS socket, from one process to another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate_file, server.key_file)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        receive = module(OWN, "--part", "receive", str(port), str(server.authority_file), str(folder / "plain"))
        with subprocess.Popen(receive, stdout=subprocess.PIPE) as receiver:
            near, _ = listener.accept()
            with (
                context.wrap_socket(near, server_side=True) as line,
                (folder / "base/model.safetensors").open("rb") as file,
            ):
                while data := file.read(MEGABYTE):
                    line.sendall(data)
                line.unwrap()
            told, _ = receiver.communicate()
    if receiver.returncode != 0:
        raise EngineError("the plain copy failed", value=receiver.returncode)
    return float(json.loads(told)["seconds"])


def _receive(port: int, authority: Path, target: Path) -> dict[str, float]:
    trust = ssl.create_default_context(cafile=str(authority))
    begun = time.perf_counter()
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        target.open("wb", buffering=0) as file,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        piece = memoryview(bytearray(MEGABYTE))
        while size := line.recv_into(piece):
            file.write(piece[:size])
        line.unwrap()  # the other side waits for our end
    return {"seconds": time.perf_counter() - begun}


def _fetch(folder: Path) -> dict[str, float]:
    site = open_site_folder(folder)
    site_key(site)  # read once before the clock starts: its library is loaded then
    begun = time.perf_counter()
    with connect_releases(site) as client:
        fetch_base(client, site)
    return {"seconds": time.perf_counter() - begun, "peak_mb": peak_mb(os.getpid())}


def _child(part: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(module(OWN, "--part", part, *arguments), stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise EngineError("a part of the benchmark failed", value=part)
    return dict(json.loads(done.stdout))


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(typed: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=f"python -m {OWN}", description=__doc__)
    parser.add_argument("--megabytes", type=at_least_one, default=500, help="of the base [default: 500]")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="copies of each kind [default: 3]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(typed)
    if given.part:
        part, *rest = given.part
        told = _fetch(Path(rest[0])) if part == "fetch" else _receive(int(rest[0]), Path(rest[1]), Path(rest[2]))
        print(json.dumps(told))
        return 0
    try:
        with TemporaryDirectory(prefix="fedrelease-bench-") as folder:
            found = measure(Path(folder), megabytes=given.megabytes, repeats=given.repeats)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    _show(found, given.megabytes, as_json=given.json)
    return 0


def _show(found: Measured, megabytes: int, *, as_json: bool) -> None:
    memory = {"server_mb": round(found.server_mb, 1), "client_mb": round(found.client_mb, 1)}
    if as_json:
        seconds = {"ours_s": list(found.ours_s), "plain_s": list(found.plain_s)}
        print(json.dumps({"megabytes": megabytes, "speed": round(found.speed, 3), **seconds, **memory}, indent=2))
        return
    console = wide_console()
    console.print(f"{megabytes} MB: {median(found.ours_s):.2f} s, a plain copy {median(found.plain_s):.2f} s")
    console.print(f"speed of a plain copy: {found.speed:.2f}")
    console.print(f"memory at most: {memory['server_mb']} MB at the server, {memory['client_mb']} MB at the site")


if __name__ == "__main__":
    sys.exit(main())
