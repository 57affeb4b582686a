"""Large bases through the release service, and what both sides need for them: real processes."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from release_services import BrokenLine

from fedrelease.deployment.processes import module
from fedrelease.models.bases import open_base
from fedrelease.simulations.bench.releases import main, moved, peak_mb, running_service, small_federation

# Flower's own use of another library, when an invitation names the app.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


def test_the_bench_copies_both_ways_and_tells_a_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--megabytes", "2", "--repeats", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["speed"] > 0 and len(told["ours_s"]) == len(told["plain_s"]) == 1
    assert 0 < told["server_mb"] < 200 and 0 < told["client_mb"] < 200


@pytest.mark.slow
def test_500_mb_survive_ten_cuts_with_under_200_mb_of_memory_on_either_side(
    tmp_path: Path,
) -> None:
    server, site = small_federation(tmp_path, megabytes=500)
    fetch = module("fedrelease.simulations.bench.releases", "--part", "fetch")
    with running_service(server) as (pid, port), BrokenLine(port, after=40 << 20, times=10) as line:
        there = moved(site, tmp_path / "there", line.port)
        with subprocess.Popen([*fetch, str(there.folder)], stdout=subprocess.PIPE, text=True) as process:
            told, _ = process.communicate(timeout=250)
        assert line.left <= 0 and process.returncode == 0
        assert 0 < peak_mb(pid) < 200 and 0 < json.loads(told)["peak_mb"] < 200
    (folder,) = (there.folder / "bases").iterdir()
    assert open_base(str(folder), cache=tmp_path).digest == folder.name


def test_a_service_that_is_killed_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    server, site = small_federation(tmp_path, megabytes=24)
    fetch = module("fedrelease.simulations.bench.releases", "--part", "fetch")
    with (
        running_service(server) as (pid, _),
        subprocess.Popen([*fetch, str(site.folder)], stdout=subprocess.PIPE) as process,
    ):
        while not list((site.folder / "partial").glob("*.part")) and process.poll() is None:
            pass
        os.kill(pid, signal.SIGKILL)
        with running_service(server):
            process.communicate(timeout=60)
        assert process.returncode == 0
    (folder,) = (site.folder / "bases").iterdir()
    assert open_base(str(folder), cache=tmp_path).digest == folder.name
