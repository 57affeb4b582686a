import os
import signal
import threading
import time
from pathlib import Path

from deployments import free_ports
from server_folders import server_folder, site_folder

from fedrelease.client.deployment.start import run_site
from fedrelease.deployment.logs import read_log

WAIT_S = 60.0


def started(log: Path, name: str, *, times: int) -> int:
    """The number of a process, once it was started so often."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        lines = read_log(log) if log.exists() else []
        found = [int(str(one["pid"])) for one in lines if one["event"] == "process-started" and one["name"] == name]
        if len(found) >= times:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError(f"{name} was not started {times} times")


def test_when_the_executor_dies_its_supernode_comes_in_again_too_since_it_would_wait_for_the_answer(
    tmp_path: Path,
) -> None:
    site = site_folder(server_folder(tmp_path, port=free_ports(1)), tmp_path, "a", port=str(free_ports(2)))
    over, log = threading.Event(), site.log_folder / "site.log"
    thread = threading.Thread(target=run_site, args=(site,), kwargs={"until": over.is_set})
    thread.start()
    try:
        started(log, "supernode", times=1)
        os.kill(started(log, "executor", times=1), signal.SIGKILL)
        started(log, "supernode", times=2)
        started(log, "executor", times=2)
    finally:
        over.set()
        thread.join()
    assert {line["name"]: line["status"] for line in read_log(log) if line["event"] == "process-ended"}[
        "executor"
    ] == -9
