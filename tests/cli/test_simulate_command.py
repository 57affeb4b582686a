import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from example_store import make_store

from fedrelease.cli import run
from fedrelease.cli.simulate import built_in
from fedrelease.experiment import Experiment
from fedrelease.server.events import Opened, Released, Watcher

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Summary:
    name: str
    store: Path
    head: str
    head_digest: str
    released: int
    held: int
    seconds: float
    epsilon: float | None
    resumed: bool


class Engine:
    """Stands in for the real engine: leaves the example store, and remembers what it was asked."""

    def __init__(self) -> None:
        self.experiment = Experiment()
        self.workers: int | None = None

    def __call__(
        self, experiment: Experiment, *, store: Path, workers: int | None, watch: Watcher, **_: object
    ) -> Summary:
        self.experiment, self.workers = experiment, workers
        made = make_store(store)
        head = made.find("0.1.4")
        watch(Opened(head=None, resumed=False, sites=("amazon", "movie"), rounds=4, rounds_done=0))
        watch(
            Released(
                version="0.1.4",
                digest=head.digest,
                metrics={"accuracy": 0.8},
                epsilon=6.0,
                bytes_up=1,
                bytes_down=1,
                seconds=12.5,
            )
        )
        return Summary(experiment.federation.name, store, "0.1.4", head.digest, 4, 1, 50.0, 6.0, False)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    module = ModuleType("fedrelease.simulations.simulate")
    made = Engine()
    module.simulate = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def study(tmp_path: Path) -> str:
    (tmp_path / "study.toml").write_text('[federation]\nname = "tried"\nstore = "from-file"\nseed = 3\n')
    return "study.toml"


def test_a_simulation_ends_with_its_versions_its_files_and_what_to_do_next(
    engine: Engine, study: str, tmp_path: Path, capsys: Capture
) -> None:
    assert run(["simulate", study, "--store", "my store"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split()[:3] == ["0.0.0", "0", "0.680"]
    assert "fedrelease predict --release stable --store 'my store'" in said.out
    assert (tmp_path / "my store" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "my store" / "summary.csv").exists()


def test_the_plan_is_talk_and_shows_the_resolved_experiment(engine: Engine, study: str, capsys: Capture) -> None:
    assert run(["simulate", study, "--set", "training.lr=0.5"]) == 0
    talk = capsys.readouterr().err
    assert "tried: 5 rounds" in talk
    assert "lr 0.5" in talk
    assert "epsilon 8 at delta 1e-05" in talk
    assert "released 0.1.4  accuracy 0.800  epsilon 6.00  12.5 s" in talk


def test_a_flag_beats_the_file_and_the_file_beats_the_defaults(engine: Engine, study: str) -> None:
    assert run(["simulate", study, "--store", "flag", "--set", "federation.name=b", "--workers", "2", "-q"]) == 0
    federation = engine.experiment.federation
    assert (federation.store, federation.name, federation.seed, federation.quorum) == ("flag", "b", 3, 0.5)
    assert engine.workers == 2


def test_json_is_the_contract_and_nothing_else(engine: Engine, study: str, capsys: Capture) -> None:
    assert run(["simulate", study, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    contract = {"name", "store", "head", "head_digest", "released", "held", "seconds", "epsilon", "resumed"}
    assert contract <= document.keys()
    assert (document["name"], document["store"], document["head"]) == ("tried", "from-file", "0.1.4")


def test_quiet_says_nothing_on_stderr(engine: Engine, study: str, capsys: Capture) -> None:
    assert run(["simulate", study, "--quiet", "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "training.lrr=1"),
        ("--set", "training.lr=-1"),
        ("--workers", "0"),
        ("--engine", "rays"),
        ("--ray-address", "auto"),
        ("--set", "x"),
    ],
)
def test_a_wrong_key_value_or_flag_exits_2(engine: Engine, study: str, arguments: tuple[str, ...]) -> None:
    assert run(["simulate", study, *arguments]) == 2


def test_an_unknown_experiment_exits_2_and_says_how_to_list_the_built_in_ones(engine: Engine, capsys: Capture) -> None:
    assert run(["simulate", "nowhere.toml"]) == 2
    assert "--list" in capsys.readouterr().err


def test_an_interruption_exits_130(
    engine: Engine, study: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fedrelease.simulations.simulate"], "simulate", interrupted)
    assert run(["simulate", study, "--quiet"]) == 130
    assert capsys.readouterr().err.startswith("stopped: nothing that was released is lost")


def test_the_built_in_experiments_are_listed(capsys: Capture) -> None:
    assert run(["simulate", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["experiments"]
    assert {one["name"]: one["what"] for one in listed} == built_in()


def test_the_default_experiment_is_built_in_and_runs_without_a_file(engine: Engine) -> None:
    assert run(["simulate", "--quiet", "--store", "s"]) == 0
    assert all(what for what in built_in().values()), "a built-in experiment opens with a comment that says what it is"
