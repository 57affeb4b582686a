"""FedEx-LoRA: whatever averaged factors miss stands in the residual, so that the release is the mean of the sites' models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import Adapter, StrategyChoice
from fedrelease.factors import trained_part, truncated
from fedrelease.strategies import check_adapter, make_strategy
from fedrelease.strategies.fedex_lora import FedExLoRA
from fedrelease.strategies.fedit import FedIT
from fedrelease.strategies.lora import residuals
from fedrelease.update import State, Update

OUT, IN, RANK = 7, 9, 4


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parent_of() -> dict[str, Tensor]:
    return {
        "q.lora_A": drawn(RANK, IN, seed=1),
        "q.lora_B": drawn(OUT, RANK, seed=2),
        "q.residual": drawn(OUT, IN, seed=3),
        "head.bias": drawn(3, seed=4),
    }


def update(site: int, tensors: State, examples: int = 10) -> Update:
    return Update(
        site=f"s{site}", tensors=tensors, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0
    )


def updates_of(parent: State, ranks: Sequence[int], *, seed: int = 0) -> list[Update]:
    """Sites of these ranks; as a site does, they send no residual."""
    starts = [truncated(trained_part(parent), rank) for rank in ranks]
    return [
        update(
            site,
            {name: 0.5 * drawn(*part.shape, seed=seed + 10 * site + len(name)) for name, part in start.items()},
            10 + 20 * site,
        )
        for site, start in enumerate(starts)
    ]


def model(state: State) -> Tensor:
    """What a layer adds to its weight, over alpha / rank."""
    return state["q.lora_B"].double() @ state["q.lora_A"].double() + state["q.residual"].double()


def mean_of_models(parent: State, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    """Each site's own model, dense, with the residual that it was sent."""
    total = torch.zeros(OUT, IN, dtype=torch.float64)
    for one, weight in zip(updates, weights, strict=True):
        start = truncated(trained_part(parent), len(one.tensors["q.lora_A"]))
        ended = {name: part.double() + one.tensors[name] for name, part in start.items()}
        total += weight * model({**ended, "q.residual": parent["q.residual"]})
    return total


def test_one_round_worked_out_by_hand() -> None:
    """Sites end with B A = 2 * 3 = 6 and 4 * 5 = 20: mean 13. Factors: 3 * 4 = 12, so that 1 is missing; 7 was there."""
    parent = {name: torch.tensor([[value]]) for name, value in (("q.lora_A", 1.0), ("q.lora_B", 1.0))}
    parent["q.residual"] = torch.tensor([[7.0]])
    ends = [{"q.lora_B": 2.0, "q.lora_A": 3.0}, {"q.lora_B": 4.0, "q.lora_A": 5.0}]
    sites = [update(i, {name: torch.tensor([[x - 1.0]]) for name, x in end.items()}) for i, end in enumerate(ends)]
    state, memory = FedExLoRA().aggregate(parent, sites, {})
    assert {name: tensor.item() for name, tensor in state.items()} == {
        "q.lora_A": 4.0,
        "q.lora_B": 3.0,
        "q.residual": 8.0,
    }
    assert memory == {}


@pytest.mark.parametrize("ranks", [(4, 4, 4), (1, 2, 4), (2, 2, 1)])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_the_release_is_the_mean_of_the_sites_models_whatever_their_ranks(
    ranks: tuple[int, ...], weighting: str
) -> None:
    parent, weights = parent_of(), {"uniform": (1 / 3,) * 3, "examples": (10 / 90, 30 / 90, 50 / 90)}[weighting]
    updates = updates_of(parent, ranks)
    state, _ = FedExLoRA(weighting=weighting).aggregate(parent, updates, {})
    expected = mean_of_models(parent, updates, weights)
    torch.testing.assert_close(model(state), expected, atol=1e-6, rtol=1e-6)
    assert round(residuals(parent, state, updates, weights)["q"], 6) == 0.0
    naive, _ = FedIT(weighting=weighting).aggregate(trained_part(parent), updates, {})
    assert (model({**naive, "q.residual": parent["q.residual"]}) - expected).norm() > 0.1, "there was something to miss"


def test_the_release_is_the_mean_round_after_round() -> None:
    state: State = parent_of()
    for number in range(5):
        updates = updates_of(state, (4, 4), seed=1000 * number)
        parent, (state, _) = state, FedExLoRA().aggregate(state, updates, {})
        torch.testing.assert_close(model(state), mean_of_models(parent, updates, (0.5, 0.5)), atol=1e-5, rtol=1e-5)


def test_the_metric_counts_what_the_residual_moved_by_and_not_what_it_was() -> None:
    """Where the residual did not move, it tells what FedIT's does; the 3 rounds before are nobody's miss."""
    parent = parent_of()
    updates = updates_of(parent, (4, 4))
    naive, _ = FedIT().aggregate(trained_part(parent), updates, {})
    without = residuals(trained_part(parent), naive, updates, (0.5, 0.5))
    still = residuals(parent, {**naive, "q.residual": parent["q.residual"]}, updates, (0.5, 0.5))
    assert still["q"] == pytest.approx(without["q"], rel=1e-9) and without["q"] > 0.01
    moved = {**naive, "q.residual": parent["q.residual"] + 1.0}
    assert residuals(parent, moved, updates, (0.5, 0.5))["q"] != pytest.approx(without["q"], rel=0.01)


def test_a_and_b_and_the_head_are_fedits() -> None:
    parent = parent_of()
    updates = updates_of(parent, (2, 4))
    found, expected = (
        FedExLoRA().aggregate(parent, updates, {})[0],
        FedIT().aggregate(trained_part(parent), updates, {})[0],
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert found.keys() - expected.keys() == {"q.residual"}


def test_an_update_is_never_asked_for_a_residual() -> None:
    class Watched(Mapping[str, Tensor]):
        def __init__(self, tensors: State) -> None:
            self.tensors, self.read = tensors, set[str]()

        def __getitem__(self, name: str) -> Tensor:
            self.read.add(name)
            return self.tensors[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.tensors)

        def __len__(self) -> int:
            return len(self.tensors)

    watched = [Watched(one.tensors) for one in updates_of(parent_of(), (4, 4))]
    FedExLoRA().aggregate(parent_of(), [update(i, one) for i, one in enumerate(watched)], {})
    assert [one.read for one in watched] == [{"q.lora_A", "q.lora_B", "head.bias"}] * 2


def test_a_parent_without_a_residual_is_refused_by_the_name_of_the_key() -> None:
    bare = trained_part(parent_of())
    with pytest.raises(RoundFailed, match=r"q has no residual.*model.adapter\] residual = true"):
        FedExLoRA().aggregate(bare, updates_of(bare, (4,)), {})


def test_an_experiment_without_a_residual_is_refused_and_is_told_its_size() -> None:
    with pytest.raises(ExperimentError, match=r"384 x 384: 590 kB.*model.adapter\] residual = true"):
        check_adapter(StrategyChoice(name="fedex-lora"), Adapter())
    check_adapter(StrategyChoice(name="fedex-lora"), Adapter(residual=True, site_ranks={"a": 2}))
    assert 384 * 384 * 4 == 589_824


def test_other_strategies_may_run_beside_a_residual() -> None:
    for name in ("fedavg", "ffa-lora", "scaffold", "median"):
        check_adapter(StrategyChoice(name=name), Adapter(residual=True))


def test_a_residual_without_lora_is_refused() -> None:
    with pytest.raises(ExperimentError, match='left out with kind = "full"'):
        Adapter(kind="full", residual=True)


def test_one_site_alone_leaves_the_residual_as_it_was_but_for_rounding() -> None:
    parent = parent_of()
    (one,) = updates_of(parent, (4,))
    state, _ = FedExLoRA().aggregate(parent, [replace(one, site="alone")], {})
    torch.testing.assert_close(state["q.residual"], parent["q.residual"], atol=1e-6, rtol=1e-6)


def test_a_weighting_that_there_is_not_is_refused() -> None:
    with pytest.raises(ExperimentError, match="weighting"):
        make_strategy(StrategyChoice(name="fedex-lora", knobs={"weighting": "votes"}))
