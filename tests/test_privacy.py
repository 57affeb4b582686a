"""The plan, the calibration and the composition, against accountants that we do not use."""

import math
from dataclasses import replace

import pytest
from reference import composed_epsilon, halved_noise

from fedrelease import noise as noise_module
from fedrelease.accounting import Segment, spent
from fedrelease.errors import PrivacyError
from fedrelease.experiment import Privacy
from fedrelease.noise import calibrate
from fedrelease.privacy import Stretch, plan_privacy

DELTA = 1e-5


@pytest.mark.parametrize(
    "history",
    [
        [Segment(1.0, 0.1, 50)],
        [Segment(1.2, 0.01, 1000)],
        [Segment(0.8, 0.25, 8), Segment(2.0, 0.05, 100)],
        [Segment(3.0, 1.0, 4), Segment(1.0, 0.1, 20)],
        [Segment(1.5, 0.032, 310)],
    ],
)
def test_what_is_spent_equals_another_accountant(history: list[Segment]) -> None:
    assert spent(history, delta=DELTA) == pytest.approx(composed_epsilon(history, DELTA), abs=0.02)


@pytest.mark.parametrize("history", [[Segment(1.0, 0.1, 50)], [Segment(0.8, 0.25, 8), Segment(2.0, 0.05, 100)]])
def test_renyi_accounting_costs_more_and_never_less(history: list[Segment]) -> None:
    assert spent(history, delta=DELTA) < spent(history, delta=DELTA, accountant="rdp")


def delta_of(mu: float, epsilon: float) -> float:
    """Balle and Wang (2018), equation 6, with the standard library's error function."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(
    ("history", "mu"),
    [
        ([Segment(2.0, 1.0, 1)], 0.5),
        ([Segment(3.0, 1.0, 9)], 1.0),  # sqrt(9 / 9)
        ([Segment(4.0, 1.0, 8), Segment(2.0, 1.0, 2)], 1.0),  # sqrt(8 / 16 + 2 / 4)
        ([Segment(0.5, 1.0, 4)], 4.0),
    ],
)
def test_without_sampling_the_cost_is_the_exact_gaussian_one(history: list[Segment], mu: float) -> None:
    epsilon = spent(history, delta=DELTA)
    assert delta_of(mu, epsilon) <= DELTA
    assert delta_of(mu, epsilon * (1 - 1e-6)) > DELTA


def test_noise_so_large_that_delta_alone_covers_it_costs_nothing() -> None:
    assert spent([Segment(1e6, 1.0, 1)], delta=DELTA) == 0.0


def test_an_empty_history_costs_nothing() -> None:
    assert spent([], delta=DELTA) == 0.0
    assert spent([Segment(1.0, 0.1, 0)], delta=DELTA) == 0.0


def test_order_and_grouping_of_steps_do_not_matter() -> None:
    one, other = Segment(1.0, 0.1, 10), Segment(2.0, 0.05, 20)
    expected = spent([one, other], delta=DELTA)
    assert spent([other, one], delta=DELTA) == expected
    assert spent([one._replace(steps=4), other, one._replace(steps=6)], delta=DELTA) == expected


def test_more_steps_cost_more_and_more_noise_costs_less() -> None:
    base = Segment(1.0, 0.1, 20)
    cost = spent([base], delta=DELTA)
    assert spent([base._replace(steps=21)], delta=DELTA) > cost
    assert spent([base._replace(noise_multiplier=1.1)], delta=DELTA) < cost
    assert spent([base._replace(sample_rate=0.11)], delta=DELTA) > cost


@pytest.mark.parametrize("noise", [0.0, -1.0])
def test_steps_without_noise_have_no_epsilon(noise: float) -> None:
    with pytest.raises(PrivacyError, match=r"without noise.*unit = \"none\""):
        spent([Segment(1.0, 0.1, 5), Segment(noise, 0.1, 5)], delta=DELTA)


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [
        (8.0, 1e-5, 0.1, 50),
        (1.0, 1e-5, 0.01, 300),
        (3.0, 1e-6, 0.25, 20),
        (8.0, 1e-5, 1.0, 6),
        (0.1, 1e-5, 1.0, 1),
        (50.0, 1e-5, 1.0, 10),
        (0.5, 1e-5, 0.05, 40),
    ],
)
def test_calibration_never_exceeds_its_target_and_comes_close(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    noise = calibrate(epsilon=epsilon, delta=delta, sample_rate=rate, steps=steps)
    cost = spent([Segment(noise, rate, steps)], delta=delta)
    assert epsilon * 0.998 <= cost <= epsilon


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(8.0, 0.25, 12), (1.0, 0.071, 15), (80.0, 0.25, 12), (0.5, 1e-5, 100)]
)
def test_calibration_finds_what_halving_finds(epsilon: float, rate: float, steps: int) -> None:
    noise = calibrate(epsilon=epsilon, delta=DELTA, sample_rate=rate, steps=steps)
    slow = halved_noise(lambda noise: spent([Segment(noise, rate, steps)], delta=DELTA), epsilon)
    assert slow - 2e-5 <= noise <= slow * 1.002 + 1e-4


def test_calibration_asks_seldom_and_returns_a_number_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def counted(history: list[Segment], *, delta: float, accountant: str) -> float:
        asked.append(history[0].noise_multiplier)
        return spent(history, delta=delta, accountant=accountant)

    monkeypatch.setattr(noise_module, "spent", counted)
    calibrate.cache_clear()  # a process asks once
    found = calibrate(epsilon=8.0, delta=DELTA, sample_rate=0.1, steps=50)
    assert found in asked
    assert len(asked) <= 4


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_an_epsilon_below_what_the_accountant_can_show_is_refused(accountant: str) -> None:
    """Its grid or its orders end somewhere: from there on, more noise costs the same."""
    with pytest.raises(PrivacyError, match=r"no noise fits this epsilon"):
        calibrate(epsilon=1e-4, delta=DELTA, sample_rate=0.05, steps=30, accountant=accountant)


def test_calibration_for_renyi_accounting_keeps_its_own_target() -> None:
    noise = calibrate(epsilon=4.0, delta=DELTA, sample_rate=0.1, steps=30, accountant="rdp")
    assert 4.0 * 0.998 <= spent([Segment(noise, 0.1, 30)], delta=DELTA, accountant="rdp") <= 4.0


@pytest.mark.parametrize("epsilon", [1e-7, 1e7])
def test_an_epsilon_that_no_noise_fits_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match=r"no noise fits this epsilon.*choose an epsilon"):
        calibrate(epsilon=epsilon, delta=1e-12, sample_rate=1.0, steps=1)


def test_noise_for_stretches_of_other_sampling_rates_is_worth_the_budget_by_another_accountant() -> None:
    """A site with 40, then 80, then 160 rows: a row of the first 40 is there throughout."""
    noise = calibrate(epsilon=4.0, delta=DELTA, sample_rate=0.25, steps=8, rest=((0.125, 16), (0.0625, 32)))
    history = [Segment(noise, 0.25, 8), Segment(noise, 0.125, 16), Segment(noise, 0.0625, 32)]
    assert 4.0 * 0.99 <= composed_epsilon(history, DELTA) <= 4.0 + 0.02
    assert composed_epsilon([Segment(noise, 0.25, 56)], DELTA) > 5  # what the largest rate throughout would have cost


def test_every_stretch_of_a_plan_gets_the_same_noise_whichever_is_named_first() -> None:
    asked = {"epsilon": 2.0, "delta": DELTA, "accountant": "rdp"}
    first = calibrate(**asked, sample_rate=0.3, steps=4, rest=((0.1, 9), (0.2, 5)))  # type: ignore[arg-type]
    last = calibrate(**asked, sample_rate=0.1, steps=9, rest=((0.2, 5), (0.3, 4)))  # type: ignore[arg-type]
    assert first == last
    assert calibrate(**asked, sample_rate=0.2, steps=3, rest=((0.2, 4),)) == calibrate(  # type: ignore[arg-type]
        **asked,  # type: ignore[arg-type]
        sample_rate=0.2,
        steps=7,
    )


def test_a_plan_with_other_stretches_takes_its_rate_from_its_own_rows_and_its_noise_from_all() -> None:
    others = (Stretch(rows=200, steps=4, rounds=3), Stretch(rows=0, steps=0, rounds=5))
    plan = plan_privacy(Privacy(), rows=100, batch_size=30, steps_per_round=3, rounds=2, others=others)
    assert plan is not None
    assert plan.segment() == (plan.noise_multiplier, 0.3, 3)
    assert plan.rest == ((0.15, 12),)
    assert spent([Segment(plan.noise_multiplier, 0.3, 6), Segment(plan.noise_multiplier, 0.15, 12)], delta=DELTA) <= 8.0


def test_the_plan_computes_its_own_sampling_rate_and_expected_batch() -> None:
    """Not one over the number of batches: 100 rows in batches of 30 are a rate of 0.3, and 30 expected rows."""
    plan = plan_privacy(Privacy(), rows=100, batch_size=30, steps_per_round=3, rounds=2)
    assert plan is not None
    assert plan.sample_rate == 0.3
    assert plan.batch_size == pytest.approx(30)
    assert plan.segment() == (plan.noise_multiplier, 0.3, 3)


def test_a_batch_of_more_than_all_rows_is_all_rows() -> None:
    plan = plan_privacy(Privacy(), rows=20, batch_size=32, steps_per_round=1, rounds=3)
    assert plan is not None
    assert (plan.sample_rate, plan.batch_size) == (1.0, 20.0)


def test_the_plan_is_calibrated_for_all_its_rounds_together() -> None:
    plan = plan_privacy(Privacy(epsilon=2.0), rows=1000, batch_size=100, steps_per_round=10, rounds=4)
    assert plan is not None
    rounds = [spent([plan.segment()] * count, delta=DELTA) for count in (1, 2, 3, 4, 5)]
    assert rounds == sorted(rounds)
    assert rounds[3] <= 2.0 < rounds[4]
    assert sum([rounds[0]] * 4) > rounds[3]  # never sum the epsilons of rounds


def test_the_plan_carries_the_experiments_promise_unchanged() -> None:
    privacy = Privacy(epsilon=3.0, delta=1e-6, clip=0.25, accountant="rdp")
    plan = plan_privacy(privacy, rows=100, batch_size=10, steps_per_round=2, rounds=2)
    assert plan is not None
    assert (plan.unit, plan.epsilon, plan.delta, plan.clip, plan.accountant) == ("example", 3.0, 1e-6, 0.25, "rdp")


def test_without_a_unit_there_is_no_plan() -> None:
    assert plan_privacy(Privacy(unit="none"), rows=100, batch_size=10, steps_per_round=1, rounds=1) is None


def test_a_plan_cannot_be_changed_in_place() -> None:
    plan = plan_privacy(Privacy(), rows=20, batch_size=20, steps_per_round=1, rounds=1)
    assert plan is not None
    with pytest.raises(AttributeError):
        plan.noise_multiplier = 0.1  # type: ignore[misc]  # what must not work
    assert replace(plan, rounds=2) != plan
