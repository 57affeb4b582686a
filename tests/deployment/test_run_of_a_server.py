import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.superlink.grid import http_grid
from server_folders import server_folder

from fedrelease.deployment.logs import read_log
from fedrelease.errors import EngineError, StoreError
from fedrelease.server.deployment.application import EVENTS, FAILED, deployed
from fedrelease.server.deployment.control import MOST_STARTS, Control
from fedrelease.server.deployment.start import LASTING, end_children


def test_a_disk_that_is_full_ends_a_run_for_a_reason_that_does_not_pass_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pull_objects", "time"):  # what a ServerApp's own process has replaced for good
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))
    server = server_folder(tmp_path)
    (server.folder / "run.json").write_text(json.dumps({"store": "releases", "poll_s": 0.2}))
    with pytest.raises(StoreError, match="the disk is full"), deployed(server.folder / "run.json", run=7):
        raise OSError(errno.ENOSPC, "No space left on device")
    last = read_log(server.log_folder / EVENTS)[-1]
    assert (last["event"], last["what"], last["value"]) == (FAILED, "the disk is full", "releases")
    assert "free some space" in str(last["hint"]) and last["kind"] not in LASTING


def test_what_is_left_of_a_run_that_is_over_is_ended_though_it_stands_still(tmp_path: Path) -> None:
    """A ServerApp that was stopped holds the store, and every next run would be refused it."""
    told = tmp_path / "child"
    text = (
        "import pathlib, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']);"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid)); child.wait(); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", text]) as parent:
        try:
            while not (told.exists() and told.read_text()):
                time.sleep(0.05)
            child = int(told.read_text())
            os.kill(child, signal.SIGSTOP)
            assert end_children(parent.pid, within_s=0.1, meanwhile=lambda: None) == [child]
            assert end_children(parent.pid, within_s=30.0, meanwhile=lambda: None) == []
        finally:
            parent.kill()


def test_a_superlink_that_is_started_again_and_again_and_never_answers_is_given_up(tmp_path: Path) -> None:
    starts = itertools.count()
    with Control(server_folder(tmp_path)) as control, pytest.raises(EngineError, match="does not answer"):
        control.wait_until_ready(meanwhile=lambda: None, starts=lambda: next(starts))
    assert next(starts) >= MOST_STARTS
