"""Real worker processes on the tiny base: they answer, fail, die and end."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from federations import eventually, workers_of
from flwr.app import ConfigRecord, RecordDict

from fedrelease.errors import EngineError
from fedrelease.experiment import Adapter, Experiment, Model, Training
from fedrelease.files import Json
from fedrelease.messages import Request
from fedrelease.models.bases import Base, Pooling, open_base
from fedrelease.server.flower import FlowerSites
from fedrelease.server.local_model import initial_state
from fedrelease.simulations.engine import Engine, default_workers
from fedrelease.simulations.grid import LocalGrid
from fedrelease.simulations.simulate import _one_thread
from fedrelease.simulations.wire import pack, unpack
from fedrelease.update import state_digest

TEXTS = ("bad poor cold", "good great warm")
EXPERIMENT = Experiment(
    model=Model(adapter=Adapter(rank=2, layers="last:1"), label_texts=TEXTS), training=Training(max_length=32)
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def engine(home: Path, tiny_base: Path) -> Iterator[Engine]:
    with Engine(base=tiny_base, experiment=EXPERIMENT, workers=2, home=home) as engine:
        engine.wait_until_ready()
        yield engine
    assert workers_of(home) == []
    assert [path.name for path in home.iterdir()] == ["engine.log"]


def ask(engine: Engine, task: str, site: str) -> None:
    """Ask a site for its name."""
    content = pack(RecordDict({"config": ConfigRecord({"ask": "site"})}), engine.handover)
    engine.submit(task, {"kind": "query", "node": {"site": site}, "content": content})


def answers(engine: Engine, count: int) -> dict[str, Mapping[str, Json]]:
    found: dict[str, Mapping[str, Json]] = {}

    def enough() -> bool:
        found.update(engine.collect(wait_s=0.05))
        return len(found) >= count

    eventually(enough, why=f"{count} answers")
    return found


def name_in(outcome: Mapping[str, Json]) -> str:
    return str(unpack(outcome["content"], consume=True).config_records["config"]["site"])


def workers(engine: Engine) -> list[psutil.Process]:
    return psutil.Process(engine._process.pid).children()


def both_ready(engine: Engine) -> None:
    eventually(lambda: list(engine.collect(wait_s=0.05)) == [] and len(engine._sockets) == 2, why="two workers")


def test_more_tasks_than_workers_are_all_answered_by_two_processes(engine: Engine) -> None:
    for number in range(20):
        ask(engine, str(number), f"site-{number}")
    found = answers(engine, 20)
    assert {task: name_in(outcome) for task, outcome in found.items()} == {str(n): f"site-{n}" for n in range(20)}
    both_ready(engine)
    assert len(workers(engine)) == 2


def test_workers_compute_on_one_thread_and_outside_the_users_terminal(engine: Engine) -> None:
    both_ready(engine)
    for worker in workers(engine):
        assert worker.environ()["OMP_NUM_THREADS"] == "1"
        assert worker.num_threads() == 1
        assert os.getsid(worker.pid) == engine._process.pid != os.getsid(0)


def test_a_site_that_fails_is_named_with_its_text_its_traceback_is_in_the_log_and_the_others_go_on(
    engine: Engine, tiny_base: Path, tmp_path: Path
) -> None:
    node = {"data": str(tmp_path / "nowhere"), "home": str(tmp_path), "base": str(tiny_base), "noise": "seeded"}
    grid = LocalGrid(engine, nodes={2: {**node, "site": "broken"}, 3: {**node, "site": "other"}})
    sites = FlowerSites(grid, deadline_s=60.0)
    assert sites.names() == ("broken", "other")
    base = open_base(str(tiny_base), cache=tmp_path).digest
    request = Request(experiment=EXPERIMENT, version="0.1.1", round=1, base=base, directives={})
    (reply,) = sites.train(request, {}, ("broken",))
    assert reply.site == "broken"
    assert reply.refused is not None and "DataError" in reply.refused and "nowhere" in reply.refused
    log = engine.log.read_text()
    assert "site broken failed\nTraceback (most recent call last)" in log
    ask(engine, "after", "fine")
    assert name_in(answers(engine, 1)["after"]) == "fine"


def test_a_worker_makes_the_first_state_that_the_server_would_make_bit_for_bit_and_again_after_a_death(
    engine: Engine, tiny_base: Path
) -> None:
    both_ready(engine)
    base = open_base(str(tiny_base), cache=tiny_base)
    grid = LocalGrid(engine, nodes={})
    before = grid.initial_state(base, EXPERIMENT)
    for worker in workers(engine):
        worker.kill()
    after = grid.initial_state(base, EXPERIMENT)
    with _one_thread():  # as simulate has it: how a sum is rounded depends on the number of threads
        own = initial_state(base, EXPERIMENT)
    assert own["head.weight"].any()
    assert state_digest(before) == state_digest(after) == state_digest(own)
    both_ready(engine)


def test_a_first_state_that_no_worker_can_make_is_refused_with_the_reason(engine: Engine, tmp_path: Path) -> None:
    base = Base(ref="gone", folder=tmp_path, files={}, pooling=Pooling())
    with pytest.raises(EngineError, match=r"is not a base: it has no config\.json.*Try: save it"):
        LocalGrid(engine, nodes={}).initial_state(base, EXPERIMENT)


def test_a_site_with_another_base_than_the_servers_is_refused(engine: Engine, tiny_base: Path, tmp_path: Path) -> None:
    node = {"site": "a", "data": str(tmp_path), "home": str(tmp_path), "base": str(tiny_base), "noise": "seeded"}
    sites = FlowerSites(LocalGrid(engine, nodes={2: node}), deadline_s=60.0)
    request = Request(experiment=EXPERIMENT, version="0.1.1", round=1, base="f" * 64, directives={})
    (reply,) = sites.train(request, {}, ("a",))
    assert reply.refused is not None and "base is not the server's" in reply.refused


def test_a_worker_killed_at_work_fails_its_task_only_and_is_replaced(engine: Engine) -> None:
    both_ready(engine)
    before = {worker.pid for worker in workers(engine)}
    for worker in workers(engine):
        worker.suspend()
    ask(engine, "1", "one")
    ask(engine, "2", "two")
    ask(engine, "3", "three")
    first, second = workers(engine)
    first.kill()
    second.resume()
    found = answers(engine, 3)
    failed = {task: outcome["failed"] for task, outcome in found.items() if "failed" in outcome}
    assert len(failed) == 1 and not failed.keys() & {"3"}
    assert "died with status -9" in str(next(iter(failed.values())))
    both_ready(engine)
    assert len({worker.pid for worker in workers(engine)} - before) == 1


def test_a_worker_killed_while_idle_costs_no_task(engine: Engine) -> None:
    both_ready(engine)
    for worker in workers(engine):
        worker.kill()
        worker.wait()
    for number in range(4):
        ask(engine, str(number), f"site-{number}")
    assert [name_in(outcome) for _, outcome in sorted(answers(engine, 4).items())] == [f"site-{n}" for n in range(4)]


def test_a_worker_killed_in_the_middle_of_its_answer_leaves_no_half_frame_to_the_next(engine: Engine) -> None:
    both_ready(engine)
    ask(engine, "long", "x" * 5_000_000)  # more than a socket holds, so that the worker waits for us to read
    (place,) = engine._busy
    assert select.select([engine._sockets[place]], [], [], 60)[0]
    for worker in workers(engine):
        worker.kill()
        worker.wait()
    assert "died with status -9" in str(answers(engine, 1)["long"]["failed"])
    for number in range(4):
        ask(engine, str(number), f"site-{number}")
    assert [name_in(outcome) for _, outcome in sorted(answers(engine, 4).items())] == [f"site-{n}" for n in range(4)]


def test_closing_while_everything_still_loads_leaves_nothing(tiny_base: Path, tmp_path: Path) -> None:
    with Engine(base=tiny_base, experiment=EXPERIMENT, workers=2, home=tmp_path) as engine:
        assert engine.handover.is_dir()
        eventually(lambda: workers_of(tmp_path) != [], why="workers have begun")
    assert workers_of(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["engine.log"]


def test_an_experiment_that_the_base_does_not_fit_is_refused_in_the_models_own_words(
    tiny_base: Path, tmp_path: Path
) -> None:
    deep = Experiment(model=Model(adapter=Adapter(layers="last:9")))
    with (
        Engine(base=tiny_base, experiment=deep, workers=1, home=tmp_path) as engine,
        pytest.raises(EngineError, match=r"fewer layers.*last:9.*at most last:2"),
    ):
        engine.wait_until_ready()


def test_when_the_nursery_is_killed_its_workers_go_too_and_the_engine_says_so(tiny_base: Path, tmp_path: Path) -> None:
    with Engine(base=tiny_base, experiment=EXPERIMENT, workers=2, home=tmp_path) as engine:
        engine.wait_until_ready()
        both_ready(engine)
        engine._process.kill()
        with pytest.raises(EngineError, match=r"workers are gone.*Run the same command"):
            answers(engine, 1)
        eventually(lambda: workers_of(tmp_path) == [], why="workers end with their nursery")
    assert not list(tmp_path.glob("handover*"))


OWNER = """
import sys, time
from pathlib import Path
from fedrelease.experiment import Adapter, Experiment, Model
from fedrelease.simulations.engine import Engine
experiment = Experiment(model=Model(adapter=Adapter(rank=2, layers="last:1")))
engine = Engine(base=Path(sys.argv[1]), experiment=experiment, workers=2, home=Path(sys.argv[2]))
if sys.argv[3] == "ready":
    engine.wait_until_ready()
print("here", flush=True)
time.sleep(600)
"""


FORKS = """
import os, sys, threading, torch
from fedrelease.simulations.worker import settle_threads
torch.set_num_threads(1)
tensor, failed = torch.ones(400_000), 0
tensor.to(torch.bfloat16)

def convert(together, failures):
    together.wait()
    try:
        tensor.to(torch.bfloat16)
    except RuntimeError as error:
        failures.append(error)

for _ in range(40):
    if child := os.fork():
        failed += os.waitpid(child, 0)[1] != 0
        continue
    try:
        settle_threads()
        together, failures = threading.Barrier(4), []
        threads = [threading.Thread(target=convert, args=(together, failures)) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(bool(failures))
    finally:
        os._exit(3)
print(failed)
"""


def test_threads_that_begin_together_after_a_fork_find_a_pool() -> None:
    """Without the call about half of the forks fail: torch replaces a pool that did not survive, and not for two at once."""
    done = subprocess.run([sys.executable, "-P", "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("when", ["loading", "ready"])
def test_when_the_engines_own_process_is_killed_no_worker_and_no_file_outlives_it(
    tiny_base: Path, tmp_path: Path, when: str
) -> None:
    arguments = [sys.executable, "-P", "-c", OWNER, str(tiny_base), str(tmp_path), when]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "here\n"
        assert workers_of(tmp_path)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    eventually(lambda: workers_of(tmp_path) == [], why="no worker outlives its engine")
    if when == "ready":
        eventually(lambda: not list(tmp_path.glob("handover*")), why="the nursery takes the handover folder with it")


def test_a_new_engine_sweeps_what_a_dead_one_left(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "handover-old").mkdir()
    (tmp_path / "handover-old" / "big.safetensors").write_bytes(b"x")
    with Engine(base=tiny_base, experiment=EXPERIMENT, workers=1, home=tmp_path):
        assert not (tmp_path / "handover-old").exists()


def test_there_are_as_many_workers_as_cores_but_no_more_than_sites() -> None:
    assert default_workers(1) == 1
    assert 1 <= default_workers(2) <= 2
    assert default_workers() == default_workers(10_000) >= 1
