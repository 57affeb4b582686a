"""What a run that was killed together with its helpers leaves in its sites' folder, and on this machine for Ray.

Example::

    sweep_handovers(home)                                     # the caller holds the folder's lock
"""

import shutil
import tempfile
from pathlib import Path

__all__ = ["ray_files", "sweep_handovers"]


def sweep_handovers(home: Path) -> None:
    """Remove the handover folders of runs that ended without doing it, and what a Ray of theirs had."""
    for leftover in home.glob("handover-*"):
        for path in (ray_files(leftover), leftover):
            shutil.rmtree(path, ignore_errors=True)


def ray_files(handover: Path) -> Path:
    """Where a Ray of the run's own keeps sockets and logs: a short path, since a socket's has a hundred bytes at most."""
    return Path(tempfile.gettempdir()) / f"fedrelease-{handover.name[-12:]}"
