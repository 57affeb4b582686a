"""A disk of the server or of a site fills up while a federation runs: what is there stays whole, and with room all goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = ("unshare", "--user", "--map-root-user", "--mount")
TESTS = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("disk", ["releases", "server", "a"])
def test_a_full_disk_is_named_tears_nothing_and_with_room_the_same_command_goes_on(
    tiny_base: Path, tmp_path: Path, disk: str
) -> None:
    if subprocess.run([*PLACE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting a disk of one's own is not allowed here")
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    program = [sys.executable, "full_disks.py", str(tmp_path), str(tiny_base), disk]
    done = subprocess.run(
        [*PLACE, *program], cwd=TESTS / "deployment", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
