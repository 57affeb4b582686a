"""Rules against hostile sites: hand numbers, proven bounds with one site of five hostile, other knobs, and bounded memory."""

from collections.abc import Iterator, Mapping

import conformance
import pytest
import torch
from robust_oracles import ROBUST_ORACLES
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies import chunks, make_strategy
from fedrelease.strategies.clipping import CenteredClip, NormBound
from fedrelease.strategies.foolsgold import FoolsGold
from fedrelease.strategies.geometric_median import GeometricMedian
from fedrelease.strategies.krum import Bulyan, Krum, MultiKrum
from fedrelease.strategies.order_statistics import Median, TrimmedMean
from fedrelease.update import State, Update

SITES, HOSTILE = 20, 4
IN_RANGE = ("bulyan", "krum", "median", "multi-krum", "trimmed-mean")
ZERO = {"w": torch.zeros(1)}


def rule_of(name: str, **knobs: float | str) -> conformance.Strategy:
    return make_strategy(StrategyChoice(name=name, knobs=knobs))


def update(site: str, tensors: State) -> Update:
    return Update(site=site, tensors=tensors, examples=None, metrics={}, receipt=None, digest="", size_bytes=0)


def updates(*values: float) -> list[Update]:
    return [update(f"site-{place}", {"w": torch.tensor([value])}) for place, value in enumerate(values)]


def moved(rule: conformance.Strategy, *values: float) -> float:
    return float(rule.aggregate(ZERO, updates(*values), {})[0]["w"])


def flat(state: State) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


def attacked(seed: int) -> tuple[list[Update], Tensor]:
    """Twenty updates of which four, in any places, are a million times too long; and the honest ones, ``[16, numbers]``."""
    rule, generator = Median(), torch.Generator().manual_seed(seed)
    some = conformance.updates_of(rule, seed, SITES)
    hostile = set(torch.randperm(SITES, generator=generator)[:HOSTILE].tolist())
    same_way = conformance.drawn(500 + seed, 1.0)
    for place in hostile:
        own = conformance.drawn(900 + place, 1.0)
        loud = {name: 1e6 * (same_way if seed % 2 else own)[name] for name in own}
        some[place] = conformance.update(rule, place, loud, seed)
    honest = torch.stack([flat(one.tensors) for place, one in enumerate(some) if place not in hostile])
    return some, honest


def delta_of(rule: conformance.Strategy, some: list[Update]) -> Tensor:
    parent = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in conformance.SHAPES.items()}
    return flat(rule.aggregate(parent, some, {})[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", IN_RANGE)
def test_no_coordinate_leaves_the_honest_sites_range_whatever_a_fifth_of_them_sends(name: str, seed: int) -> None:
    some, honest = attacked(seed)
    found = delta_of(rule_of(name), some)
    assert bool(((honest.amin(0) - 1e-12 <= found) & (found <= honest.amax(0) + 1e-12)).all())


@pytest.mark.parametrize("seed", range(6))
def test_plain_averaging_is_carried_away_by_the_same_updates(seed: int) -> None:
    some, honest = attacked(seed)
    assert float((delta_of(rule_of("fedavg"), some) - honest.mean(0)).norm()) > 1e4


@pytest.mark.parametrize("seed", range(6))
def test_the_geometric_median_stays_within_its_proven_distance_of_the_honest_mean(seed: int) -> None:
    """2 (1 - 0.2) / (1 - 0.4) = 8 / 3 of the farthest honest site's distance."""
    some, honest = attacked(seed)
    farthest = float((honest - honest.mean(0)).norm(dim=1).max())
    assert float((delta_of(GeometricMedian(), some) - honest.mean(0)).norm()) <= 8 / 3 * farthest


@pytest.mark.parametrize("seed", range(6))
def test_centered_clipping_stays_within_its_proven_distance_of_the_honest_mean(seed: int) -> None:
    """The centre begins at 0; ((1 + 0.2) / (1 - 0.4) + 0.2) = 2.2 of the farthest honest site's distance."""
    some, honest = attacked(seed)
    mean = honest.mean(0)
    farthest = float((honest - mean).norm(dim=1).max())
    for iterations in (1, 3, 30):
        away = float((delta_of(CenteredClip(iterations=iterations), some) - mean).norm())
        assert away <= max(float(mean.norm()), 2.2 * farthest)


@pytest.mark.parametrize("seed", range(6))
def test_a_norm_bound_is_no_longer_than_its_bound(seed: int) -> None:
    some, honest = attacked(seed)
    longest = float(honest.norm(dim=1).max())
    assert float(delta_of(NormBound(), some).norm()) <= longest
    assert float(delta_of(NormBound(length=0.25), some).norm()) <= 0.25 + 1e-12


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_foolsgold_gives_sites_that_push_one_way_no_weight_at_all(seed: int) -> None:
    """With them or without them, the honest sites' own weights aside, nothing of 1e6 is left."""
    some, honest = attacked(seed)
    found = delta_of(FoolsGold(compared=""), some)
    assert float(found.norm()) <= float(honest.norm(dim=1).max())


def test_foolsgold_follows_a_single_liar_where_honest_sites_look_alike() -> None:
    """Two honest sites push to 1 and agree, the liar does not: 1 - cosine is 0, 0 and 1, so that only the liar counts."""
    assert moved(FoolsGold(compared="w"), 1.0, 1.0, -5.0) == -5.0


def test_the_median_of_four_is_the_mean_of_the_two_in_the_middle() -> None:
    assert moved(Median(), 1.0, 100.0, 2.0, 4.0) == 3.0
    assert moved(Median(), 1.0, 100.0, 2.0) == 2.0


def test_a_share_is_trimmed_rounded_down_and_a_number_as_it_is() -> None:
    """Of five, 0.25 leaves out one at each end: (1 + 2 + 6) / 3; two leave the middle one."""
    assert moved(TrimmedMean(), -50.0, 1.0, 2.0, 6.0, 70.0) == 3.0
    assert moved(TrimmedMean(trim=2), -50.0, 1.0, 2.0, 6.0, 70.0) == 2.0
    assert moved(TrimmedMean(trim=0.1), 1.0, 2.0, 6.0) == 3.0


def test_krum_takes_the_update_with_the_nearest_neighbours() -> None:
    """f = 1, so two neighbours: 1.0 has 0.04 + 0.25 = 0.29, 1.2 has 0.04 + 0.09 = 0.13, 1.5 has 0.09 + 0.25 = 0.34."""
    assert moved(Krum(), 1.0, 1.2, 1.5, 9.0, -4.0) == pytest.approx(1.2)


def test_multi_krum_takes_the_mean_of_the_best_and_keep_says_of_how_many() -> None:
    """n - f - 2 = 2 of five: 1.2 and, at 0.29, 1.0."""
    assert moved(MultiKrum(), 1.0, 1.2, 1.5, 9.0, -4.0) == pytest.approx(1.1)
    assert moved(MultiKrum(keep=1), 1.0, 1.2, 1.5, 9.0, -4.0) == pytest.approx(1.2)


def test_bulyan_averages_the_values_nearest_the_median_of_the_best() -> None:
    """n = 7, f = 1: the best five are 1, 2, 3, 5 and 7; their median is 3, and nearest to it are 3, 2 and then 1 before 5."""
    assert moved(Bulyan(hostile=1), 1.0, 2.0, 3.0, 5.0, 7.0, 90.0, -60.0) == 2.0


def test_a_norm_bound_shortens_what_is_longer_than_the_median_and_nothing_else() -> None:
    """Lengths 1, 2, 9: the bound is 2, so (1 - 2 + 2) / 3; twice the median leaves 4 of the 9."""
    assert moved(NormBound(), 1.0, -2.0, 9.0) == pytest.approx(1 / 3)
    assert moved(NormBound(multiple=2.0), 1.0, -2.0, 9.0) == pytest.approx(1.0)


def test_centered_clipping_remembers_its_centre() -> None:
    """Radius 1 and one step: 0 + (1 + 1 + 1) / 3, then from 1 on (1 + 1 + 1) / 3 further."""
    rule = CenteredClip(radius=1.0, iterations=1)
    state, memory = rule.aggregate(ZERO, updates(5.0, 6.0, 7.0), {})
    assert (float(state["w"]), float(memory["centre/w"])) == (1.0, 1.0)
    state, memory = rule.aggregate(ZERO, updates(5.0, 6.0, 7.0), memory)
    assert (float(state["w"]), float(memory["centre/w"])) == (2.0, 2.0)


def test_foolsgold_keeps_the_head_of_every_site_and_adds_up() -> None:
    rule, parent = FoolsGold(), conformance.parent_of()
    _, memory = rule.aggregate(parent, conformance.updates_of(rule, 1, 3), {})
    assert sorted(memory) == [f"seen/site-0{n}/head.{part}" for n in range(3) for part in ("bias", "weight")]
    _, later = rule.aggregate(parent, conformance.updates_of(rule, 2, 2), memory)
    first, second = (conformance.updates_of(rule, number, 2)[1].tensors["head.bias"] for number in (1, 2))
    assert torch.allclose(later["seen/site-01/head.bias"], first + second)
    assert torch.equal(later["seen/site-02/head.bias"], memory["seen/site-02/head.bias"]), "it did not answer"


def test_foolsgold_says_what_it_could_compare() -> None:
    with pytest.raises(RoundFailed, match="nothing to compare.*choose one of w"):
        FoolsGold().aggregate(ZERO, updates(1.0), {})


@pytest.mark.parametrize("name", sorted(ROBUST_ORACLES))
def test_factors_that_nobody_trains_stay_bit_for_bit(name: str) -> None:
    """As with FFA-LoRA: every delta of A is zero."""
    parent, rule = conformance.parent_of(), rule_of(name)
    frozen = "encoder.0.value.lora_A"
    some = [
        update(one.site, {**one.tensors, frozen: torch.zeros(conformance.SHAPES[frozen])})
        for one in conformance.updates_of(rule, 1)
    ]
    memory: State = {}
    for _ in range(2):
        state, memory = rule.aggregate(parent, some, memory)
        assert torch.equal(state[frozen], parent[frozen])
        assert not torch.equal(state["head.bias"], parent["head.bias"])


OTHER_KNOBS = [
    pytest.param("bulyan", {"hostile": 0}, marks=pytest.mark.slow),
    pytest.param("bulyan", {"hostile": 1}, marks=pytest.mark.slow),
    ("centered-clip", {"radius": 0.3, "iterations": 5}),
    ("foolsgold", {"compared": "", "confidence": 2.0}),
    ("geometric-median", {"iterations": 4, "smoothing": 0.5}),
    ("krum", {"hostile": 1}),
    ("multi-krum", {"hostile": 2, "keep": 4}),
    ("norm-bound", {"length": 0.5}),
    ("norm-bound", {"multiple": 0.7}),
    ("trimmed-mean", {"trim": 0.1}),
    ("trimmed-mean", {"trim": 3}),
]


@pytest.mark.parametrize(("name", "knobs"), OTHER_KNOBS)
def test_with_other_knobs_too_it_goes_where_its_oracle_goes(name: str, knobs: dict[str, float | str]) -> None:
    conformance.check_oracle(rule_of(name, **knobs), ROBUST_ORACLES[name])


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Krum(hostile=2), 7),
        (MultiKrum(hostile=2), 7),
        (MultiKrum(hostile=2, keep=5), 9),
        (Bulyan(hostile=2), 11),
        (TrimmedMean(trim=2), 5),
        (Krum(), 3),
        (Bulyan(), 3),
    ],
)
def test_a_rule_says_how_many_updates_its_knobs_need(rule: conformance.Strategy, least: int) -> None:
    values = [0.1 * number for number in range(least)]
    assert rule.least == least
    assert rule.aggregate(ZERO, updates(*values), {})[0]
    with pytest.raises(RoundFailed, match=f"needs at least {least}"):
        rule.aggregate(ZERO, updates(*values[1:]), {})


def test_left_out_the_number_of_hostile_sites_is_the_most_that_the_updates_allow() -> None:
    """Ten updates: (10 - 3) // 2 = 3 for Krum; eleven: (11 - 3) // 4 = 2 for Bulyan."""
    some, parent = conformance.updates_of(Krum(), 1), conformance.parent_of()
    for rule, told, count in ((Krum(), Krum(hostile=3), 10), (Bulyan(), Bulyan(hostile=2), 11)):
        assert conformance.same(
            rule.aggregate(parent, some[:count], {})[0], told.aggregate(parent, some[:count], {})[0]
        )


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("bulyan", {"hostile": -1}),
        ("centered-clip", {"radius": 0.0}),
        ("centered-clip", {"iterations": 0}),
        ("foolsgold", {"compared": 3}),
        ("foolsgold", {"confidence": -1.0}),
        ("geometric-median", {"iterations": 2.5}),
        ("geometric-median", {"smoothing": 0}),
        ("krum", {"hostile": 0.2}),
        ("krum", {"hostile": True}),
        ("multi-krum", {"keep": 0}),
        ("norm-bound", {"length": "long"}),
        ("norm-bound", {"multiple": -2.0}),
        ("trimmed-mean", {"trim": 0.5}),
        ("trimmed-mean", {"trim": -1}),
        ("trimmed-mean", {"trim": "some"}),
    ],
)
def test_a_knob_out_of_bounds_is_refused_by_its_name(name: str, knobs: dict[str, float | str]) -> None:
    with pytest.raises(ExperimentError, match=next(iter(knobs))):
        rule_of(name, **knobs)


class Watched(Mapping[str, Tensor]):
    """Tells how many tensors were read."""

    reads = 0

    def __init__(self, tensors: State) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        Watched.reads += 1
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@pytest.mark.parametrize("name", sorted(ROBUST_ORACLES))
def test_chunks_of_any_size_give_the_same_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 11 sites 80 numbers are seven coordinates, fewer than most tensors have."""
    rule, parent = rule_of(name), conformance.parent_of()
    whole, _ = rule.aggregate(parent, conformance.updates_of(rule, 1), {})
    monkeypatch.setattr(chunks, "NUMBERS", 80)
    monkeypatch.setattr(Watched, "reads", 0)
    some = [update(one.site, Watched(one.tensors)) for one in conformance.updates_of(rule, 1)]
    pieces, _ = rule.aggregate(parent, some, {})
    assert conformance.close(pieces, whole, 1e-6)
    assert Watched.reads >= len(parent) * rule.least


def test_no_more_numbers_are_stacked_than_the_bound_however_many_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "NUMBERS", 1000)
    for sites in (1, 30, 400):
        states = [{"w": torch.full((20, 7), float(site))} for site in range(sites)]
        seen = [(chunk.clone(), chunk.untyped_storage().nbytes()) for chunk in chunks.stacked_chunks(states, "w")]
        assert all(stored <= 8 * max(1000, sites) for _, stored in seen)
        expected = torch.arange(sites, dtype=torch.float64)[:, None].expand(sites, 140)
        assert torch.equal(torch.cat([chunk for chunk, _ in seen], 1), expected)
