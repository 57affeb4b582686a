"""Rules for LoRA factors, against dense matrices in float64: what is exact, what is nearest, and what is lost."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from pytest import approx
from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, StrategyChoice
from fedrelease.factors import trained_part, truncated
from fedrelease.strategies import STRATEGIES, Strategy, check_ranks, make_strategy
from fedrelease.strategies.flora import stacked_factors
from fedrelease.strategies.lora import Product, best_factors, folded, length, mean_product, residuals, stacked
from fedrelease.update import State, Update

OUT, IN, RANK = 20, 24, 16
NEAR = 1e-5
EXACT = ("flexlora", "flora", "hlora")
UNIFORM = (1 / 3,) * 3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parent_of(rank: int = RANK, out: int = OUT, into: int = IN) -> dict[str, Tensor]:
    return {
        "q.lora_A": 0.2 * drawn(rank, into, seed=1),
        "q.lora_B": 0.2 * drawn(out, rank, seed=2),
        "head.weight": drawn(3, out, seed=3),
    }


def update(place: int, tensors: State, examples: int = 10) -> Update:
    return Update(
        site=f"s{place}", tensors=tensors, examples=examples, metrics={}, receipt=None, digest="", size_bytes=0
    )


def updates_of(parent: State, ranks: Sequence[int]) -> list[Update]:
    """Sites of these ranks that each went their own way from the leading ranks of the parent."""
    return [
        update(place, {name: 0.3 * drawn(*part.shape, seed=100 * place + len(name)) for name, part in start.items()})
        for place, start in enumerate(truncated(trained_part(parent), rank) for rank in ranks)
    ]


def ending_with(parent: State, factors: Sequence[tuple[Tensor, Tensor]]) -> list[Update]:
    """Sites that end with these factors, A and B."""
    ended = [{"q.lora_A": first, "q.lora_B": second, "head.weight": parent["head.weight"]} for first, second in factors]
    return [
        update(place, {name: tensor - truncated(parent, len(one["q.lora_A"]))[name] for name, tensor in one.items()})
        for place, one in enumerate(ended)
    ]


def dense(parent: State, one: Update) -> Tensor:
    ended = {name: part.double() + one.tensors[name] for name, part in _parts(parent, one).items()}
    return ended["q.lora_B"] @ ended["q.lora_A"]


def _parts(parent: State, one: Update) -> Mapping[str, Tensor]:
    return truncated(parent, len(one.tensors["q.lora_A"]))


def dense_mean(parent: State, updates: Sequence[Update], weights: Sequence[float]) -> Tensor:
    return sum((weight * dense(parent, one) for one, weight in zip(updates, weights, strict=True)), torch.zeros(()))


def product(state: State) -> Tensor:
    return state["q.lora_B"].double() @ state["q.lora_A"].double()


def rule_of(name: str, **knobs: str) -> Strategy:
    return make_strategy(StrategyChoice(name=name, knobs=knobs))


def error(state: State, expected: Tensor) -> float:
    return float((product(state) - expected).abs().max())


@pytest.mark.parametrize("name", EXACT)
def test_the_product_is_the_mean_of_products_of_ranks_4_8_and_16_where_that_has_the_parents_rank(name: str) -> None:
    """The sites share their rows of A, so that the mean has rank 16 and there is nothing to cut."""
    parent, rows = parent_of(), drawn(RANK, IN, seed=9)
    updates = ending_with(parent, [(rows[:rank], drawn(OUT, rank, seed=rank)) for rank in (4, 8, 16)])
    state, _ = rule_of(name).aggregate(parent, updates, {})
    assert error(state, dense_mean(parent, updates, UNIFORM)) < NEAR
    assert residuals(parent, state, updates, UNIFORM)["q"] < NEAR


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ranks", [(4, 8, 16), (16, 16, 16)])
def test_else_it_is_the_nearest_of_that_rank(name: str, ranks: tuple[int, ...]) -> None:
    parent = parent_of()
    updates = updates_of(parent, ranks)
    state, _ = rule_of(name).aggregate(parent, updates, {})
    u, values, v = torch.linalg.svd(dense_mean(parent, updates, UNIFORM))
    assert error(state, u[:, :RANK] * values[:RANK] @ v[:RANK]) < NEAR
    lost = float(values[RANK:].norm() / values.norm())  # Eckart and Young: what is cut off is all that is missed
    assert residuals(parent, state, updates, UNIFORM)["q"] == approx(lost, rel=1e-4) and lost > 0.01


@pytest.mark.parametrize("ranks", [(4, 8, 16), (16, 16, 16)])
def test_the_mean_of_factors_is_not_the_mean_of_products(ranks: tuple[int, ...]) -> None:
    parent = parent_of()
    updates = updates_of(parent, ranks)
    naive, _ = rule_of("fedit").aggregate(parent, updates, {})
    nearest, _ = rule_of("flexlora").aggregate(parent, updates, {})
    expected = dense_mean(parent, updates, UNIFORM)
    assert error(naive, expected) > 0.1
    assert (product(naive) - expected).norm() > 2 * (product(nearest) - expected).norm()


def test_zeros_fill_up_what_a_site_of_lower_rank_lacks() -> None:
    """Rank 2, one site with rank 1. A: (2 + 4) / 2 = 3 in the first row, (0 + 6) / 2 = 3 in the second; B likewise."""
    parent = {"q.lora_A": torch.tensor([[1.0], [5.0]]), "q.lora_B": torch.tensor([[1.0, 7.0]])}
    updates = [
        update(0, {"q.lora_A": torch.tensor([[1.0]]), "q.lora_B": torch.tensor([[3.0]])}),  # ends with 2 and 4
        update(1, {"q.lora_A": torch.tensor([[3.0], [1.0]]), "q.lora_B": torch.tensor([[5.0, 3.0]])}),  # 4, 6 and 6, 10
    ]
    state, _ = rule_of("fedit").aggregate(parent, updates, {})
    assert state["q.lora_A"].tolist() == [[3.0], [3.0]] and state["q.lora_B"].tolist() == [[5.0, 5.0]]
    # products: 2 * 4 = 8 and 4 * 6 + 6 * 10 = 84, their mean is 46; the factors' is 3 * 5 + 3 * 5 = 30
    assert residuals(parent, state, updates, (0.5, 0.5))["q"] == approx((46 - 30) / 46)


def test_with_equal_ranks_fedit_is_fedavg_bit_for_bit() -> None:
    parent = parent_of()
    updates = updates_of(parent, (16, 16, 16))
    naive, plain = (rule_of(name).aggregate(parent, updates, {})[0] for name in ("fedit", "fedavg"))
    assert all(torch.equal(naive[name], plain[name]) for name in parent)


@pytest.mark.parametrize("name", EXACT)
def test_weights_by_examples_weigh_products(name: str) -> None:
    parent, rows = parent_of(), drawn(RANK, IN, seed=9)
    updates = ending_with(parent, [(rows, drawn(OUT, RANK, seed=seed)) for seed in (5, 6)])
    weighted = [update(place, one.tensors, examples) for place, (one, examples) in enumerate(zip(updates, (10, 30)))]  # noqa: B905
    state, _ = rule_of(name, weighting="examples").aggregate(parent, weighted, {})
    assert error(state, dense_mean(parent, updates, (0.25, 0.75))) < NEAR


def test_the_head_is_averaged_as_ever() -> None:
    parent = parent_of()
    updates = updates_of(parent, (4, 8, 16))
    mean = sum(one.tensors["head.weight"].double() for one in updates) / 3
    for name in ("fedit", *EXACT):
        state, _ = rule_of(name).aggregate(parent, updates, {})
        assert torch.allclose(state["head.weight"].double(), parent["head.weight"] + mean, atol=1e-6)


def test_a_stack_is_exact_whatever_the_ranks() -> None:
    parent = parent_of()
    updates = updates_of(parent, (4, 8, 16))
    first, second = stacked_factors("q", parent, updates, (0.2, 0.3, 0.5))
    assert (first.shape, second.shape) == ((28, IN), (OUT, 28))
    assert (second @ first - dense_mean(parent, updates, (0.2, 0.3, 0.5))).abs().max() < NEAR


@pytest.mark.parametrize(("out", "into"), [(20, 24), (24, 20), (6, 40)])
def test_folding_keeps_the_matrix_and_bounds_its_factors(out: int, into: int) -> None:
    wide = Product(left=drawn(out, 50, seed=1).double(), right=drawn(50, into, seed=2).double())
    small = folded(wide)
    assert small.inner == min(out, into)
    assert torch.allclose(small.left @ small.right, wide.left @ wide.right, atol=1e-12)


def test_many_sites_need_no_more_memory_than_few_and_nothing_is_lost() -> None:
    """100 sites of rank 4 and 16 on [20, 24]: at most 2 * 20 inner columns and one site's 16."""
    parent = parent_of()
    updates = updates_of(parent, (4, 16) * 50)
    mean = mean_product("q", parent, updates, (0.01,) * 100)
    assert mean.inner <= 2 * OUT + RANK
    assert torch.allclose(mean.left @ mean.right, dense_mean(parent, updates, (0.01,) * 100), atol=1e-10)


@pytest.mark.parametrize("name", ["fedit", "flexlora", "fedavg"])
def test_the_residual_is_that_of_dense_matrices(name: str) -> None:
    parent = parent_of()
    updates = updates_of(parent, (16, 16, 16))
    state, _ = rule_of(name).aggregate(parent, updates, {})
    mean = dense_mean(parent, updates, (0.5, 0.3, 0.2))
    expected = float((mean - product(state)).norm() / mean.norm())
    assert residuals(parent, state, updates, (0.5, 0.3, 0.2)) == {"q": approx(expected, rel=1e-9)}


def test_sites_that_keep_one_a_leave_no_residual_to_tell() -> None:
    parent = parent_of()
    updates = [
        update(place, {**one.tensors, "q.lora_A": torch.zeros(RANK, IN)})
        for place, one in enumerate(updates_of(parent, (16, 16, 16)))
    ]
    state, _ = rule_of("ffa-lora").aggregate(parent, updates, {})
    assert round(residuals(parent, state, updates, UNIFORM)["q"], 6) == 0.0


def test_a_mean_of_zero_has_no_residual_unless_something_was_released() -> None:
    parent = {**parent_of(), "q.lora_B": torch.zeros(OUT, RANK)}
    still = [update(0, {name: torch.zeros_like(tensor) for name, tensor in parent.items()})]
    assert residuals(parent, parent, still, (1.0,)) == {"q": 0.0}
    assert residuals(parent, parent_of(), still, (1.0,)) == {"q": approx(1.0)}


def test_a_state_without_factors_has_no_residual() -> None:
    assert residuals({"head.bias": torch.zeros(2)}, {"head.bias": torch.zeros(2)}, [], ()) == {}


def test_the_values_lie_in_b_and_rows_of_a_have_length_1_also_where_nothing_was_learnt_yet() -> None:
    parent = {**parent_of(), "q.lora_B": torch.zeros(OUT, RANK)}
    still = [update(0, {name: torch.zeros_like(tensor) for name, tensor in parent.items()})]
    state, _ = rule_of("flexlora").aggregate(parent, still, {})
    assert torch.allclose(state["q.lora_A"] @ state["q.lora_A"].T, torch.eye(RANK), atol=1e-5)
    assert state["q.lora_B"].abs().max() < 1e-6


def test_sites_of_low_rank_alone_leave_directions_to_train_on() -> None:
    parent = parent_of()
    state, _ = rule_of("flexlora").aggregate(parent, updates_of(parent, (4,)), {})
    assert torch.allclose(state["q.lora_A"].norm(dim=1), torch.ones(RANK), atol=1e-5)


def test_the_leading_ranks_are_the_best_of_lower_rank() -> None:
    whole = Product(left=drawn(OUT, 30, seed=1).double(), right=drawn(30, IN, seed=2).double())
    first, second = best_factors(whole, RANK)
    u, values, v = torch.linalg.svd(whole.left @ whole.right)
    assert torch.allclose(second[:, :4] @ first[:4], u[:, :4] * values[:4] @ v[:4], atol=1e-9)


def test_the_largest_entry_of_each_row_of_a_is_positive_whatever_the_signs_that_came_in() -> None:
    one = Product(left=drawn(OUT, 4, seed=1).double(), right=drawn(4, IN, seed=2).double())
    first, second = best_factors(one, 4)
    again, other = best_factors(Product(left=-one.left, right=-one.right), 4)
    assert (first.gather(1, first.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.allclose(first, again, atol=1e-9) and torch.allclose(second, other, atol=1e-9)


def test_a_rank_beyond_the_matrix_is_filled_with_zeros() -> None:
    first, second = best_factors(Product(left=drawn(3, 2, seed=1).double(), right=drawn(2, 5, seed=2).double()), 4)
    assert (first.shape, second.shape) == ((4, 5), (3, 4)) and not second[:, 2:].abs().max() > 1e-12


def test_the_length_of_a_difference_that_nearly_vanishes_is_small() -> None:
    """Traces of products of Gram matrices would stop at the square root of the rounding."""
    one = Product(left=drawn(OUT, 4, seed=1).double(), right=drawn(4, IN, seed=2).double())
    assert length(stacked([one, Product(left=-one.left, right=one.right)])) < 1e-13 * length(one) * 10


def test_a_strategy_that_cannot_mix_ranks_is_refused_and_those_that_can_are_named() -> None:
    mixed = Adapter(rank=16, site_ranks={"a": 4})
    with pytest.raises(ExperimentError, match="fedit, flexlora, flora, hlora") as caught:
        check_ranks(StrategyChoice(name="fedavg"), mixed)
    assert caught.value.value == {"a": 4}
    check_ranks(StrategyChoice(name="fedavg"), Adapter(rank=16, site_ranks={"a": 16}))
    for name, kind in STRATEGIES.items():
        if kind.mixed_ranks:
            check_ranks(StrategyChoice(name=name), mixed)


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if kind.mixed_ranks])
def test_every_rule_that_mixes_ranks_gives_the_parents_form(name: str) -> None:
    parent = parent_of()
    parent |= {"q.residual": drawn(OUT, IN, seed=4)} if STRATEGIES[name].writes_residual else {}
    state, _ = rule_of(name).aggregate(parent, updates_of(parent, (4, 8, 16)), {})
    assert {key: (value.shape, value.dtype) for key, value in state.items()} == {
        key: (value.shape, value.dtype) for key, value in parent.items()
    }
