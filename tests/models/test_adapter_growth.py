"""A model whose adapter grew computes what it computed: against its own logits before, and against merged dense weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2
from tiny import token_rows
from torch import Tensor

from fedrelease.data.tokens import TokenRows
from fedrelease.experiment import Adapter, AdapterChange, Model
from fedrelease.factors import FIRST, RESIDUAL, SECOND, layers_of
from fedrelease.growth import grown
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.ranks import at_rank
from fedrelease.update import State

SEED = 3
SMALL = Adapter(rank=2, alpha=6.0, layers="last:1")
GROWTHS: Mapping[str, tuple[Adapter, AdapterChange]] = {
    "twice the rank": (SMALL, AdapterChange(rank=4)),
    "half as much rank again": (SMALL, AdapterChange(rank=3)),
    "more layers": (SMALL, AdapterChange(layers="last:2")),
    "all layers": (SMALL, AdapterChange(layers="all")),
    "all modules": (SMALL, AdapterChange(targets="all-linear")),
    "modules by name": (SMALL, AdapterChange(targets="value,query,key")),
    "everything": (SMALL, AdapterChange(rank=5, layers="all", targets="all-linear", residual=True)),
    "a residual besides": (SMALL, AdapterChange(residual=True)),
    "rank beside a residual": (replace(SMALL, residual=True), AdapterChange(rank=7)),
    "a pair of each site's own besides": (SMALL, AdapterChange(own_rank=2)),
    "both ranks": (replace(SMALL, own_rank=1), AdapterChange(rank=4, own_rank=3)),
    "a core's rank": (replace(SMALL, kind="lora-sb"), AdapterChange(rank=5)),
    "a core's layers": (replace(SMALL, kind="lora-sb"), AdapterChange(layers="all", targets="all-linear")),
}


def built(base: Path, adapter: Adapter) -> TextClassifier:
    return build_classifier(open_base(str(base), cache=base), Model(adapter=adapter), seed=SEED).eval()


def learned(model: TextClassifier) -> dict[str, Tensor]:
    """Large random numbers in all of a state: what was learned must show in the logits."""
    numbers = torch.Generator().manual_seed(1)
    state = {name: 0.5 * torch.randn(t.shape, generator=numbers) for name, t in trainable_state(model).items()}
    load_state(model, state)
    return state


def logits(model: TextClassifier, rows: TokenRows) -> Tensor:
    batch = rows.batch(range(6))
    with torch.no_grad():
        found: Tensor = model(batch.input_ids, batch.attention_mask)
    return found


def dense(state: State, scale: float) -> dict[str, Tensor]:
    """What each layer adds to its weight, multiplied out in float64."""
    return {
        layer: scale
        * (
            state[layer + SECOND].double() @ state[layer + FIRST].double()
            + state.get(layer + RESIDUAL, torch.zeros(()))
        )
        for layer in layers_of(state.keys())
    }


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_grown_adapter_gives_the_logits_that_it_gave_before(growth: str, tiny_base: Path, rows: TokenRows) -> None:
    before, change = GROWTHS[growth]
    small, large = built(tiny_base, before), built(tiny_base, change.of(before))
    state, fresh = learned(small), trainable_state(large)
    load_state(large, grown(state, like=fresh))
    assert not torch.allclose(logits(small, rows), logits(built(tiny_base, before), rows), atol=1e-2)
    assert torch.allclose(logits(large, rows), logits(small, rows), atol=1e-6, rtol=1e-5)


def test_a_grown_adapter_of_a_base_that_keeps_its_weights_turned_gives_the_same_logits(
    tiny_base: Path, tmp_path: Path
) -> None:
    """GPT-2's one module holds query, key and value."""
    base = other_base(tiny_base, tmp_path, small_gpt2())
    rows = token_rows(tmp_path / "rows.safetensors", base)
    small, large = (built(base, adapter) for adapter in (SMALL, AdapterChange(rank=4, layers="all").of(SMALL)))
    load_state(large, grown(learned(small), like=trainable_state(large)))
    assert torch.allclose(logits(large, rows), logits(small, rows), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("growth", [name for name, (before, _) in GROWTHS.items() if before.kind == "lora"])
def test_multiplied_out_old_layers_add_the_same_bits_and_new_ones_nothing(growth: str, tiny_base: Path) -> None:
    before, change = GROWTHS[growth]
    after = change.of(before)
    state = learned(built(tiny_base, before))
    wide = grown(state, like=trainable_state(built(tiny_base, after)))
    old, new = dense(state, before.alpha / before.rank), dense(wide, after.alpha / after.rank)
    assert old and all(torch.allclose(new[layer], added, rtol=0, atol=1e-12) for layer, added in old.items())
    assert all(not new[layer].any() for layer in new.keys() - old.keys())


def test_new_rows_of_a_are_those_of_an_adapter_that_begins_with_the_rank_and_draw_a_gradient(
    tiny_base: Path, rows: TokenRows
) -> None:
    small, large = built(tiny_base, SMALL), built(tiny_base, AdapterChange(rank=4).of(SMALL))
    state, fresh = learned(small), trainable_state(large)
    wide = grown(state, like=fresh)
    (name, *_) = (layer for layer in layers_of(wide.keys()))
    assert torch.equal(wide[name + FIRST][2:], fresh[name + FIRST][2:]) and bool(wide[name + FIRST][2:].all())
    load_state(large, wide)
    batch = rows.batch(range(6))
    large(batch.input_ids, batch.attention_mask)[:, 0].sum().backward()
    (slope,) = (value.grad for key, value in large.named_parameters() if f"{name}{SECOND}." in key)
    assert slope is not None and bool((slope[:, 2:].abs().amax(0) > 0).all())


def test_a_site_with_fewer_ranks_of_its_own_begins_with_the_old_ones(tiny_base: Path, rows: TokenRows) -> None:
    """Rank 2 of 4: the new ranks that it leaves out are those that add nothing yet."""
    small, large = built(tiny_base, SMALL), built(tiny_base, AdapterChange(rank=4).of(SMALL))
    load_state(large, grown(learned(small), like=trainable_state(large)))
    with at_rank(large, 2):
        assert torch.allclose(logits(large, rows), logits(small, rows), atol=1e-6, rtol=1e-5)
