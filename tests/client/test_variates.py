"""Control variates of a site: where they lead, how they lie on disk, and what a round that is asked again answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from one_site import make_experiment, make_request, random_state
from torch import Tensor, nn

from fedrelease.client.correction import Correction, MeanGradient, corrected
from fedrelease.client.site import Site, train_site
from fedrelease.client.variates import open_variate
from fedrelease.errors import DataError, ModelError
from fedrelease.experiment import Experiment, Phase, StrategyChoice
from fedrelease.messages import Request
from fedrelease.models.classifier import TextClassifier
from fedrelease.strategies import Strategy, make_strategy
from fedrelease.update import State, Update, apart

OPTIMA = {"a": (1.0, 0.0), "b": (4.0, 1.0)}
"""Each site's loss is curvature / 2 (w - own optimum)^2, so that the joint optimum is (1 * 0 + 4 * 1) / (1 + 4) = 0.8."""
JOINT = 0.8
RATE, STEPS = 0.05, 40


class Point(nn.Module):
    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(at.clone())


@dataclass(frozen=True)
class Two:
    """A federation of two sites with one number, through the client's functions and the server's rule."""

    folder: Path
    strategy: Strategy
    experiment: Experiment

    def round(self, number: int, state: State, memory: State) -> tuple[State, State]:
        companions = self.strategy.broadcast(state, memory)
        updates = [self.answer(site, number, state, companions) for site in OPTIMA]
        return self.strategy.aggregate(state, updates, memory)

    def answer(self, site: str, number: int, state: State, companions: State) -> Update:
        asked = Request(
            experiment=self.experiment,
            version=f"0.1.{number}",
            round=number,
            base="",
            directives=self.strategy.directives(number),
        )
        carried = open_variate(self.folder / site, asked, state, companions)
        curvature, optimum = OPTIMA[site]
        point, seen = Point(state["w"]), MeanGradient()
        optimizer = torch.optim.SGD(point.parameters(), lr=RATE)
        with corrected(point, optimizer, carried.correction if carried else Correction(), seen):
            for _ in range(STEPS):
                optimizer.zero_grad()
                torch.autograd.backward(curvature / 2 * (point.w - optimum) ** 2)
                optimizer.step()
        trained = {"w": point.w.detach().clone()}
        beside = carried.end(state, trained, seen.over(STEPS)) if carried else {}
        tensors = {"w": trained["w"] - state["w"], **beside}
        return Update(site=site, tensors=tensors, examples=1, metrics={}, receipt=None, digest="", size_bytes=0)


def led(folder: Path, rounds: int, **choice: float | str) -> float:
    name = str(choice.pop("name"))
    picked = StrategyChoice(name=name, knobs=choice)
    experiment = Experiment(phases=(Phase(rounds=rounds, strategy=picked),))
    two, state, memory = Two(folder, make_strategy(picked), experiment), {"w": torch.tensor(0.3)}, dict[str, Tensor]()
    for number in range(1, rounds + 1):
        state, memory = map(dict, two.round(number, state, memory))
    return float(state["w"])


def test_sites_that_take_many_steps_pull_the_plain_mean_off_the_joint_optimum(tmp_path: Path) -> None:
    """In 40 steps site a goes 1 - 0.95^40 = 0.8715 of its way to 0, and b 1 - 0.8^40 = 0.99987 of its way to 1.

    The mean stands still where 0.8715 (0 - w) + 0.99987 (1 - w) = 0: at 0.99987 / 1.87137 = 0.5343.
    """
    assert led(tmp_path, 30, name="fedavg") == pytest.approx(0.5343, abs=1e-3)


@pytest.mark.parametrize("choice", [{"name": "scaffold"}, {"name": "feddyn", "alpha": 1.0}], ids=str)
def test_with_control_variates_they_end_on_it(tmp_path: Path, choice: Mapping[str, float | str]) -> None:
    assert led(tmp_path, 60, **choice) == pytest.approx(JOINT, abs=1e-4)


def asked(version: str, *phases: str, kind: str = "scaffold") -> Request:
    plan = tuple(Phase(name=f"p{n}", strategy=StrategyChoice(name=name)) for n, name in enumerate(phases or (kind,)))
    directives = make_strategy(StrategyChoice(name=kind)).directives(1)
    return Request(experiment=Experiment(phases=plan), version=version, round=1, base="", directives=directives)


STATE = {"w": torch.zeros(2)}
SERVERS = {"variate/w": torch.tensor([1.0, 1.0])}


def ended(home: Path, request: Request, mean: float) -> dict[str, Tensor]:
    """A round of SCAFFOLD whose mean gradient was ``mean``."""
    carried = open_variate(home, request, STATE, SERVERS)
    assert carried is not None
    return carried.end(STATE, STATE, {"w": torch.full((2,), mean)})


def own(home: Path, request: Request) -> float:
    carried = open_variate(home, request, STATE, SERVERS)
    assert carried is not None
    return float(carried.own["w"][0])


def test_the_change_of_the_variate_goes_out_and_the_last_two_are_kept(tmp_path: Path) -> None:
    sent = [
        float(ended(tmp_path, asked(f"0.1.{number}"), mean)["variate/w"][0])
        for number, mean in enumerate((3.0, 5.0, 4.0), 9)
    ]
    assert sent == [3.0, 2.0, -1.0]
    assert sorted(path.name for path in tmp_path.glob("variates/*/*")) == ["0.1.10.safetensors", "0.1.11.safetensors"]


def test_a_round_that_is_asked_again_starts_from_the_variate_before_it(tmp_path: Path) -> None:
    for version, mean in (("0.1.1", 3.0), ("0.1.2", 5.0), ("0.1.2", 7.0)):
        sent = ended(tmp_path, asked(version), mean)
    assert float(sent["variate/w"][0]) == 7.0 - 3.0
    assert own(tmp_path, asked("0.1.3")) == 7.0
    assert own(tmp_path, asked("0.1.7")) == 7.0  # nobody asked this site in between


def test_a_history_that_the_server_has_lost_is_forgotten_when_its_rounds_are_asked_anew(tmp_path: Path) -> None:
    for version in ("0.1.1", "0.1.2", "0.1.3"):
        ended(tmp_path, asked(version), 3.0)
    assert own(tmp_path, asked("0.1.1")) == 0.0
    ended(tmp_path, asked("0.1.1"), 8.0)
    assert own(tmp_path, asked("0.1.4")) == 8.0


def test_a_variate_begins_anew_when_the_servers_memory_does(tmp_path: Path) -> None:
    """Two phases of one strategy share it; after a phase of another one both sides begin with zeros."""
    through, broken = ("scaffold", "scaffold"), ("scaffold", "fedavg", "scaffold")
    for phases in (through, broken):
        ended(tmp_path, asked("0.1.1", *phases), 3.0)
    assert own(tmp_path, asked("0.2.1", *through)) == 3.0
    assert own(tmp_path, asked("0.3.1", *broken)) == 0.0
    assert own(tmp_path, asked("0.1.2", "scaffold", "fedavg")) == 0.0  # another experiment


def test_a_variate_that_does_not_fit_is_refused_with_its_file(tmp_path: Path) -> None:
    ended(tmp_path, asked("0.1.1"), 3.0)
    with pytest.raises(DataError, match=r"does not fit.*0\.1\.1\.safetensors"):
        open_variate(tmp_path, asked("0.1.2"), {"w": torch.zeros(3)}, {"variate/w": torch.zeros(3)})


@pytest.fixture
def state(model: TextClassifier) -> dict[str, Tensor]:
    return random_state(model, seed=11)


def plain(tmp_path: Path, base: Path, kind: str, *, round: int = 1, unit: str = "none") -> Request:
    experiment = make_experiment(tmp_path, base, rounds=4, unit=unit)
    # one step a round: then momentum has nothing to remember
    training = replace(experiment.training, optimizer="sgd", max_steps=1, lr=0.5)
    directives = make_strategy(StrategyChoice(name=kind)).directives(round)
    request = make_request(replace(experiment, training=training), round=round, version=f"0.1.{round}")
    return replace(request, directives=directives)


def companions(state: State, value: float) -> dict[str, Tensor]:
    return {f"variate/{name}": torch.full_like(tensor, value) for name, tensor in state.items()}


@pytest.mark.parametrize("unit", ["none", "example"])
def test_after_one_plain_step_scaffolds_variate_is_option_two_of_the_paper(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path, unit: str
) -> None:
    """c_i - c + (x - y_i) / (K lr), in the second round, when c_i is no zero any more; noise or not."""
    first, second = (plain(tmp_path, tiny_base, "scaffold", round=number, unit=unit) for number in (1, 2))
    _, begun = train_site(site, first, state, model, companions(state, 0.0))
    before = apart(begun)[1]  # c_i was zero, so its change is c_i
    answer, sent = train_site(site, second, state, model, companions(state, 0.2))
    assert answer.metrics["steps"] == 1.0
    for name, came in state.items():
        expected = before[f"variate/{name}"] - 0.2 + (came - sent[name]) / 0.5
        found = before[f"variate/{name}"] + sent[f"variate/{name}"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert float(found.abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ["feddyn", "scaffold"])
@pytest.mark.parametrize("unit", ["none", "example"])
def test_a_seeded_site_that_is_asked_again_answers_the_same_bits_and_pays_once(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path, kind: str, unit: str
) -> None:
    beside = companions(state, 0.1) if kind == "scaffold" else {}
    first, second = (plain(tmp_path, tiny_base, kind, round=number, unit=unit) for number in (1, 2))
    train_site(site, first, state, model, beside)
    found = [train_site(site, second, state, model, beside) for _ in range(3)]
    assert found[0][0] == found[1][0] == found[2][0]
    assert all(torch.equal(found[0][1][name], again[1][name]) for again in found[1:] for name in found[0][1])
    assert len(site.ledger.entries()) == (2 if unit == "example" else 0)


def test_what_a_private_site_is_charged_for_is_known_by_its_variate_and_companions_too(
    site: Site, state: dict[str, Tensor], model: TextClassifier, tmp_path: Path, tiny_base: Path
) -> None:
    """With seeded noise, two answers that differ in a known shift alone must not share their noise."""
    request = plain(tmp_path, tiny_base, "scaffold", unit="example")
    answers = [train_site(site, request, state, model, companions(state, value))[0] for value in (0.0, 0.1, 0.1)]
    charges = [answer.receipt.charge for answer in answers if answer.receipt]
    assert charges[0] != charges[1] == charges[2]
    second = replace(request, version="0.1.2")
    fresh = replace(site, home=tmp_path / "fresh")
    there, here = (train_site(one, second, state, model, companions(state, 0.0))[0] for one in (fresh, site))
    assert there.receipt and here.receipt and there.receipt.charge != here.receipt.charge


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("scaffold", lambda sent: {}),
        ("scaffold", lambda sent: dict(list(sent.items())[1:])),
        ("scaffold", lambda sent: {**sent, "variate/x": torch.zeros(1)}),
        ("scaffold", lambda sent: {**sent, "variate/head.bias": torch.zeros(9)}),
        ("feddyn", lambda sent: sent),
        ("fedavg", lambda sent: sent),
    ],
)
def test_companions_that_are_not_those_of_the_directives_are_refused_and_cost_nothing(
    site: Site,
    state: dict[str, Tensor],
    model: TextClassifier,
    tmp_path: Path,
    tiny_base: Path,
    kind: str,
    spoil: object,
) -> None:
    request = plain(tmp_path, tiny_base, kind, unit="example")
    assert callable(spoil)
    with pytest.raises(ModelError, match=r"companions are not those of its directives.*variate/"):
        train_site(site, request, state, model, spoil(companions(state, 0.0)))
    assert site.ledger.entries() == () and not list(site.home.glob("variates/*"))
