import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedrelease.deployment.logs import Log
from fedrelease.deployment.processes import Processes, Program, module

WAIT_S = 30.0


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def program(folder: Path, code: str, *, name: str = "one", pause_s: float = 0.05) -> Program:
    return Program(name=name, command=(sys.executable, "-c", code), output=folder / f"{name}.out", pause_s=pause_s)


def test_a_program_that_ends_is_started_again_and_each_start_is_told(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", process="test")
    with Processes(log=log) as processes:
        processes.start(program(tmp_path, "print('here', flush=True)"))

        def twice() -> bool:
            processes.tend()
            return (tmp_path / "one.out").read_text().count("here") >= 2

        until(twice)
    lines = log.path.read_text().splitlines()
    assert sum('"process-started"' in line for line in lines) >= 2
    assert any('"process-ended"' in line and '"status": 0' in line for line in lines)


def test_all_end_when_the_block_ends_with_what_they_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\np = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    )
    code += "print(p.pid, flush=True)\ntime.sleep(600)"
    with Processes(log=Log(tmp_path / "log", process="test")) as processes:
        processes.start(program(tmp_path, code))
        until(lambda: (tmp_path / "one.out").read_text().endswith("\n") if (tmp_path / "one.out").exists() else False)
        (own,) = processes.ids().values()
        child = int((tmp_path / "one.out").read_text())
    until(lambda: not alive(own) and not alive(child))


def test_a_program_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    script = f"""
import time
from pathlib import Path
from fedrelease.deployment.logs import Log
from fedrelease.deployment.processes import Processes, Program
import sys
processes = Processes(log=Log(Path({str(tmp_path)!r}) / "log", process="test"))
processes.start(Program(name="one", command=(sys.executable, "-c", {sleeper!r}),
    output=Path({str(tmp_path)!r}) / "one.out"))
time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-P", "-c", script])
    out = tmp_path / "one.out"
    until(lambda: out.exists() and out.read_text().endswith("\n"))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    until(lambda: not alive(int(out.read_text())))


def test_a_program_that_does_not_exist_says_so_in_its_own_output(tmp_path: Path) -> None:
    with Processes(log=Log(tmp_path / "log", process="test")) as processes:
        processes.start(Program(name="one", command=("no-such-program",), output=tmp_path / "one.out", pause_s=60))
        until(lambda: (tmp_path / "one.out").exists() and "cannot be run" in (tmp_path / "one.out").read_text())


def test_a_file_in_the_current_folder_does_not_pass_for_a_library() -> None:
    assert module("json.tool")[:2] == (sys.executable, "-P")


def test_a_line_of_a_log_is_one_line_whatever_a_stranger_sent(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", process="test")
    log("refused", path='/a\n{"event": "forged"}', why="x" * 10_000)
    (line,) = log.path.read_text().splitlines()
    assert len(line) < 2_000


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
