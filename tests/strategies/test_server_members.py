"""Members that differ on the server only: hand-worked numbers, what they refuse, and how little they hold at a time."""

import gc
import math

import conformance
import pytest
import torch
from oracles_servers import SERVER_ORACLES
from test_fedavg import Counted, numbers

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import Privacy, StrategyChoice
from fedrelease.strategies import check_strategy, make_strategy
from fedrelease.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.fednova import FedNova
from fedrelease.strategies.fedprox import FedProx
from fedrelease.strategies.qfedavg import QFedAvg
from fedrelease.update import State, Update


def update(site: str, tensors: State, **metrics: float) -> Update:
    return Update(site=site, tensors=tensors, examples=1, metrics=metrics, receipt=None, digest="", size_bytes=0)


def test_fedprox_asks_for_the_proximal_term_and_averages_as_fedavg_does() -> None:
    updates = conformance.updates_of(FedProx(), 1)
    assert FedProx(mu=1).directives(3) == {"proximal_mu": 1.0}
    found, memory = FedProx(weighting="examples").aggregate(conformance.parent_of(), updates, {})
    expected, _ = FedAvg(weighting="examples").aggregate(conformance.parent_of(), updates, {})
    assert conformance.same(found, expected) and memory == {}


def test_fednova_gives_a_site_no_more_weight_for_taking_more_steps() -> None:
    """Steps of 4 / 4 = 1 and 6 / 2 = 3: 2 on average, times (4 + 2) / 2 = 3 steps."""
    updates = [update("a", numbers(4), steps=4), update("b", numbers(6), steps=2)]
    assert FedNova().aggregate(numbers(10), updates, {})[0]["w"].tolist() == [16.0]


def test_fednova_counts_a_step_with_momentum_for_what_it_moves() -> None:
    """With momentum 0.5 one step counts 1, two count 1 + 1.5 = 2.5: (2 / 1 + 5 / 2.5) / 2 = 2, times (1 + 2.5) / 2."""
    updates = [update("a", numbers(2), steps=1), update("b", numbers(5), steps=2)]
    assert FedNova(momentum=0.5).aggregate(numbers(0), updates, {})[0]["w"].tolist() == [3.5]


def test_fednova_with_equal_steps_is_fedavg() -> None:
    updates = [update(site, numbers(by), steps=7) for site, by in (("a", 1.0), ("b", 2.0), ("c", 6.0))]
    assert FedNova().aggregate(numbers(0), updates, {})[0]["w"].tolist() == pytest.approx([3.0])


def test_qfedavg_weighs_by_the_loss_and_shortens_the_step() -> None:
    """L = 2, q = 1. Sites: F = 1, delta = 2 and F = 3, delta = 1.

    The upper sum is L F delta = 4 + 6; the lower F^0 (L delta)^2 + L F = (16 + 2) + (4 + 6): 10 / 28.
    """
    updates = [update("a", numbers(2), loss=1.0), update("b", numbers(1), loss=3.0)]
    found, _ = QFedAvg(q=1.0, local_lr=0.5).aggregate(numbers(0), updates, {})
    assert found["w"].tolist() == pytest.approx([10 / 28])


def test_qfedavg_with_q_0_is_fedavg() -> None:
    updates = [update("a", numbers(2), loss=1.0), update("b", numbers(1), loss=9.0)]
    assert QFedAvg(q=0.0).aggregate(numbers(0), updates, {})[0]["w"].tolist() == [1.5]


def test_qfedavg_bears_losses_of_nothing_and_beyond_all_measure() -> None:
    updates = [update("a", numbers(2), loss=0.0), update("b", numbers(1), loss=1e300)]
    for q in (0.1, 1.0, 9.0):
        assert math.isfinite(float(QFedAvg(q=q).aggregate(numbers(0), updates, {})[0]["w"]))


@pytest.mark.parametrize(
    ("rule", "metrics", "message"),
    [
        (FedNova(), {}, r"b does not tell its steps.*at least 1"),
        (FedNova(), {"steps": 0.0}, r"b tells what cannot be its steps\. Given: 0.0"),
        (FedNova(), {"steps": math.inf}, r"b tells what cannot be its steps"),
        (QFedAvg(), {"steps": 3.0}, r"b does not tell its loss.*at least 0"),
        (QFedAvg(), {"loss": math.nan}, r"b tells what cannot be its loss"),
        (QFedAvg(), {"loss": -0.1}, r"b tells what cannot be its loss\. Given: -0.1"),
    ],
)
def test_a_site_that_does_not_tell_what_the_rule_divides_by_is_named(
    rule: FedNova | QFedAvg, metrics: dict[str, float], message: str
) -> None:
    updates = [update("a", numbers(1), steps=2, loss=0.5), update("b", numbers(1), **metrics)]
    with pytest.raises(RoundFailed, match=message):
        rule.aggregate(numbers(0), updates, {})


def test_a_strategy_that_needs_losses_is_refused_with_privacy_and_taken_without() -> None:
    assert QFedAvg().directives(1) == {"tell_loss": True}
    check_strategy(StrategyChoice(name="qfedavg"), Privacy(unit="none"))
    with pytest.raises(ExperimentError, match="tell its loss, and privacy is on.*qfedavg.*unit = example.*fedavg"):
        check_strategy(StrategyChoice(name="qfedavg"), Privacy(unit="example"))


def test_fedadagrad_by_hand() -> None:
    """d = 1, tau = 0.75: v = 0.5625 + 1 = 1.25^2, and 0.5 * 1 / (1.25 + 0.75) = 0.25."""
    rule = FedAdagrad(lr=0.5, tau=0.75)
    state, memory = rule.aggregate(numbers(10), [update("a", numbers(1))], {})
    assert state["w"].tolist() == [10.25]
    assert {name: value.tolist() for name, value in memory.items()} == {
        "first_moment/w": [1.0],
        "second_moment/w": [1.5625],
    }


def test_fedadam_by_hand_over_two_rounds() -> None:
    """tau = 1, both betas 0.5. Round 1, d = 7^0.5: m = d / 2, v = (1 + 7) / 2 = 4, so lr m / 3.

    Round 2, d = 0: m = d / 4, v = 4 / 2 = 2, so lr m / (2^0.5 + 1).
    """
    rule, d = FedAdam(lr=3.0, beta1=0.5, beta2=0.5, tau=1.0), math.sqrt(7)
    first, memory = rule.aggregate(numbers(0), [update("a", numbers(d))], {})
    assert first["w"].tolist() == pytest.approx([d / 2])
    second, _ = rule.aggregate(first, [update("a", numbers(0))], memory)
    assert float(second["w"] - first["w"]) == pytest.approx(3 * d / 4 / (math.sqrt(2) + 1))


def test_fedyogi_goes_up_and_down_by_a_share_of_the_square() -> None:
    """tau = 1. d = 2: v = 1 + 0.75 * 4 = 4. Then d = 1: v = 4 - 0.75 * 1 = 3.25."""
    rule = FedYogi(lr=1.0, beta1=0.0, beta2=0.25, tau=1.0)
    first, memory = rule.aggregate(numbers(0), [update("a", numbers(2))], {})
    assert (first["w"].tolist(), memory["second_moment/w"].tolist()) == (pytest.approx([2 / 3]), [4.0])
    _, memory = rule.aggregate(first, [update("a", numbers(1))], memory)
    assert memory["second_moment/w"].tolist() == [3.25]


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedopt", "fedyogi"])
@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_memory_is_at_least_float32_and_the_state_has_the_parents_dtype(
    name: str, dtype: torch.dtype, kept: torch.dtype
) -> None:
    rule = make_strategy(StrategyChoice(name=name))
    state, memory = rule.aggregate({"w": torch.ones(3, dtype=dtype)}, [update("a", numbers(1, 2, 3))], {})
    assert state["w"].dtype == dtype
    assert {value.dtype for value in memory.values() if value.dim()} == {kept}


@pytest.mark.parametrize("name", sorted(SERVER_ORACLES))
def test_as_many_tensors_are_in_memory_for_fifty_sites_as_for_two(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, most = make_strategy(StrategyChoice(name=name)), []
    parent = {"a": torch.zeros(4), "b": torch.zeros(4)}
    gc.disable()
    try:
        for sites in (2, 50):
            monkeypatch.setattr(Counted, "alive", 0)
            monkeypatch.setattr(Counted, "most", 0)
            rule.aggregate(parent, [update(str(site), Counted(), steps=1, loss=1) for site in range(sites)], {})
            most.append((Counted.most, Counted.alive))
    finally:
        gc.enable()
    assert most[0] == most[1] and most[1][1] == 0


@pytest.mark.parametrize("name", sorted(SERVER_ORACLES))
def test_tensors_that_came_beside_the_state_are_left_alone(name: str) -> None:
    """Companions of another strategy, for instance."""
    rule = make_strategy(StrategyChoice(name=name))
    plain = [update("a", numbers(1), steps=1, loss=1)]
    more = [update("a", {**numbers(1), "variate/w": torch.full((1,), 9.0)}, steps=1, loss=1)]
    assert conformance.same(rule.aggregate(numbers(0), plain, {})[0], rule.aggregate(numbers(0), more, {})[0])


@pytest.mark.parametrize(
    ("name", "knob", "value", "rule"),
    [
        ("fedprox", "mu", -0.1, "at least 0"),
        ("fedprox", "mu", "much", "a number"),
        ("fedprox", "mu", True, "a number"),
        ("fednova", "momentum", 1.0, "below 1"),
        ("qfedavg", "q", -1, "at least 0"),
        ("qfedavg", "local_lr", 0, "above 0"),
        ("fedopt", "lr", 0.0, "above 0"),
        ("fedavgm", "lr", -1.0, "above 0"),
        ("fedavgm", "momentum", 1, "below 1"),
        ("diloco", "momentum", 0.0, "above 0"),
        ("diloco", "momentum", 1.5, "below 1"),
        ("fedadam", "lr", "fast", "above 0"),
        ("fedadam", "beta1", 1.0, "below 1"),
        ("fedadam", "beta2", -0.1, "at least 0"),
        ("fedyogi", "beta2", 1.0, "below 1"),
        ("fedadagrad", "tau", 0.0, "above 0"),
        ("task-arithmetic", "scaling", 0.0, "above 0"),
        ("ties", "density", 0.0, "above 0"),
        ("ties", "density", 1.1, "at most 1"),
        ("ties", "scaling", -1.0, "above 0"),
        ("dare", "drop", 1.0, "below 1"),
        ("dare", "seed", 0.5, "a whole number"),
        ("dare", "seed", -1, "at least 0"),
    ],
)
def test_a_knob_out_of_bounds_is_refused_by_its_key(name: str, knob: str, value: float | str, rule: str) -> None:
    with pytest.raises(ExperimentError, match=rf"phase\.strategy\.{knob} is out of bounds.*{rule}"):
        make_strategy(StrategyChoice(name=name, knobs={knob: value}))


@pytest.mark.parametrize(
    "name", ["dare", "diloco", "fedadagrad", "fedadam", "fedavgm", "fednova", "fedopt", "fedprox", "fedyogi"]
)
def test_members_with_a_weighting_refuse_one_that_there_is_not(name: str) -> None:
    with pytest.raises(ExperimentError, match="weighting is examples or uniform"):
        make_strategy(StrategyChoice(name=name, knobs={"weighting": "votes"}))
