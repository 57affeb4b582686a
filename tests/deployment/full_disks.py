"""A disk that is full while a federation runs, and has room again: a program of its own, since it mounts that disk.

Example::

    unshare --user --map-root-user --mount python full_disks.py FOLDER BASE releases
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deployment_faults import ended, until
from deployments import Running, deployment

from fedrelease.server.store import Store
from fedrelease.server.verify import verify

DISK = 64 << 20
ROUNDS = 8
BLOCKS = (1 << 20, 1 << 12, 1)


def mount(folder: Path) -> None:
    """A small disk of its own at a folder."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Use every byte that is left; the file that has them."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for block in BLOCKS:
            with contextlib.suppress(OSError):
                while file.write(bytes(block)) == block:
                    pass
    return path


def at_the_server(running: Running, disk: Path) -> None:
    """The server ends and says why; nothing is torn; with room the same command goes on."""
    filler = fill(disk)
    assert running.wait() == 1, running.said()[-3000:]
    check_said(running, disk)
    assert verify(Store.open(running.store)).problems == ()
    filler.unlink()
    running.start_server()


def at_a_site(running: Running, disk: Path) -> None:
    """The site ends and says why, the others go on; with room the same command goes on, and pays what it owes."""
    site, before = running.started[1], running.charges("a")
    filler = fill(disk)
    until(lambda: site.poll() is not None, running)
    check_said(running, disk)
    assert running.charges("a")[: len(before)] == before
    filler.unlink()
    running.start_site("a")


def check_said(running: Running, disk: Path) -> None:
    """The message names a file of the disk, and a way out; it is said at once, and not after many tries."""
    said = running.said()
    assert "No space left on device" in said or "the disk is full" in said
    assert any(f"given: {folder}{disk.name}/" in said for folder in (f"{running.folder}/", "")), said
    assert "free some space" in said and "runs failed one after the other" not in said and "Traceback" not in said


CASES: dict[str, Callable[[Running, Path], None]] = {"releases": at_the_server, "server": at_the_server, "a": at_a_site}
WHERE = {"releases": "the store's disk", "server": "the server's folder", "a": "a site's disk"}


def main(folder: Path, base: Path, disk: str) -> None:
    """One case, to the end of the federation."""
    mount(folder / disk)
    with deployment(folder, base, sites=("a", "b"), rounds=ROUNDS, noise="secure") as running:
        until(lambda: (running.store / "versions" / "0.1.1.json").exists(), running)
        CASES[disk](running, folder / disk)
        ended(running, rounds=ROUNDS, fault=f"disk full: {WHERE[disk]}", times=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
