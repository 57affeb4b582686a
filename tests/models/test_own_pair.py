"""A LoRA layer with a second pair of factors: what it computes, what a state holds of it, and each example's gradient."""

from pathlib import Path

import pytest
import torch
from compatible import tiny
from other_bases import other_base, small_gpt2
from reference import one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.compatibility.engines import Combination, tried
from fedrelease.client.draws import Draws
from fedrelease.client.dropout import dropping
from fedrelease.client.selftest import check_gradients
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Experiment, Model
from fedrelease.experiment_document import experiment_digest, from_document, to_document
from fedrelease.factors import OWN_FIRST, OWN_SECOND
from fedrelease.models import per_example as layers
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.per_example import per_example, plain_layers
from fedrelease.private_part import private_names

ALPHA, RANK, OWN = 6.0, 2, 3


def built(base: Path, *, own_rank: int = OWN, precision: str = "float32", residual: bool = False) -> TextClassifier:
    adapter = Adapter(rank=RANK, alpha=ALPHA, layers="all", own_rank=own_rank, residual=residual)
    opened = open_base(str(base), cache=base)
    return build_classifier(opened, Model(adapter=adapter, precision=precision), seed=3).eval()


def shaken(model: TextClassifier) -> dict[str, Tensor]:
    """Put random numbers into all of a state."""
    numbers = torch.Generator().manual_seed(5)
    state = {name: 0.1 * torch.randn(t.shape, generator=numbers) for name, t in trainable_state(model).items()}
    load_state(model, state)
    return state


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


def logits(model: nn.Module, rows: TokenRows, count: int = 5) -> Tensor:
    batch = rows.batch(range(count))
    found: Tensor = model(batch.input_ids, batch.attention_mask)
    return found


def own_names(state: dict[str, Tensor]) -> tuple[str, ...]:
    return private_names(state, "second-adapter")


def test_a_fresh_pair_adds_nothing_and_leaves_what_is_drawn_beside_it(tiny_base: Path, rows: TokenRows) -> None:
    model, bare = built(tiny_base), built(tiny_base, own_rank=0)
    state, without = trainable_state(model), trainable_state(bare)
    assert {tuple(state[name].shape) for name in own_names(state)} == {(OWN, 32), (32, OWN)}
    assert state.keys() - without.keys() == set(own_names(state)) and len(own_names(state)) == 8
    assert all(torch.equal(state[name], tensor) for name, tensor in without.items())
    assert all(bool(state[name].any()) == name.endswith(OWN_FIRST) for name in own_names(state))
    with torch.no_grad():
        assert torch.equal(logits(model, rows), logits(bare, rows))


def test_logits_are_those_of_a_base_with_the_pairs_product_in_its_weight(tiny_base: Path, rows: TokenRows) -> None:
    model, twin = built(tiny_base), built(tiny_base, own_rank=0)
    state = shaken(model)
    load_state(twin, {name: tensor for name, tensor in state.items() if name not in own_names(state)})
    with torch.no_grad():
        before = logits(twin, rows)
        for name in [name for name in state if name.endswith(OWN_FIRST)]:
            layer = name.removesuffix(OWN_FIRST)
            weight = twin.encoder.get_submodule(layer).base_layer.weight  # type: ignore[union-attr]
            weight += ALPHA / RANK * state[layer + OWN_SECOND] @ state[name]
        torch.testing.assert_close(logits(model, rows), logits(twin, rows), atol=1e-5, rtol=1e-4)
        assert (logits(model, rows) - before).abs().max() > 0.003


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_gradients_by_example_are_those_of_one_example_at_a_time(
    make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    """GPT-2's weights lie the other way round, and query, key and value are one: [96, 32] beside factors."""
    torch.manual_seed(0)  # GPT-2's weights
    model = built(tiny_base if make == "bert" else other_base(tiny_base, tmp_path, small_gpt2()), residual=True)
    shaken(model)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    singly = [one_gradient(model, list(trained.values()), rows, row) for row in range(4)]
    with per_example(model):
        labels = rows.batch(range(4)).labels
        torch.autograd.backward(functional.cross_entropy(logits(model, rows, 4), labels, reduction="sum"))
        for place, (name, parameter) in enumerate(trained.items()):
            expected = torch.stack([gradients[place] for gradients in singly])
            assert expected.abs().max() > 0, name
            torch.testing.assert_close(parameter.grad_sample, expected, atol=5e-6, rtol=1e-4)  # type: ignore[attr-defined]


def test_outside_of_it_gradients_are_the_plain_sums_of_the_twin(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base)
    shaken(model)
    trained = [value for value in model.parameters() if value.requires_grad]
    labels = rows.batch(range(5)).labels
    found = torch.autograd.grad(functional.cross_entropy(logits(model, rows), labels), trained)
    with plain_layers(model):
        expected = torch.autograd.grad(functional.cross_entropy(logits(model, rows), labels), trained)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_selftest_knows_the_pair_and_catches_a_wrong_gradient_of_it(
    tiny_base: Path, rows: TokenRows, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for again in (False, True):  # layers that are computed again on the way back
        check_gradients(built(tiny_base, precision=precision), rows, again=again)
    note, model = layers._note, built(tiny_base, precision=precision)
    own = {id(value) for name, value in model.named_parameters() if "own_B" in name}
    monkeypatch.setattr(layers, "_note", lambda value, g: note(value, g.roll(1, 0) if id(value) in own else g))
    with pytest.raises(ModelError, match=r"own_B.*are wrong"):
        check_gradients(model, rows)


@pytest.mark.parametrize(
    ("task", "make"),
    [("causal-lm", "llama"), ("masked-lm", "bert"), ("seq2seq", "t5"), ("image-classification", "vit")],
)
def test_it_trains_privately_and_otherwise_where_lora_does(task: str, make: str) -> None:
    outcomes = tried(Combination(task=task, adapter=Adapter(own_rank=OWN)), tiny(make))
    assert (outcomes["plain"].status, outcomes["formed"].status) == ("works", "works")


def test_in_bfloat16_the_pair_is_kept_in_float32(tiny_base: Path, rows: TokenRows) -> None:
    exact, short = built(tiny_base), built(tiny_base, precision="bfloat16")
    state = shaken(exact)
    load_state(short, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(short).items())
    with torch.no_grad():
        off = (logits(short, rows) - logits(exact, rows)).norm() / logits(exact, rows).norm()
    assert 0 < off < 0.05


def test_dropout_drops_for_both_pairs_and_the_twin_drops_the_same(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base)
    shaken(model)
    plain = logits(model, rows)
    with dropping(model.train(), 0.5) as masks, torch.no_grad():
        masks.draws = Draws(key="0", step=1, rows=torch.arange(5))
        found = logits(model, rows)
        with plain_layers(model):
            torch.testing.assert_close(logits(model, rows), found, atol=1e-6, rtol=1e-5)
    assert (found - plain).abs().max() > 1e-3


def test_a_state_without_the_pair_does_not_fit_a_model_that_has_one(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"another adapter.*own_A"):
        load_state(built(tiny_base), trainable_state(built(tiny_base, own_rank=0)))


def test_the_key_is_written_and_counted_only_where_it_is_set() -> None:
    own = Experiment(model=Model(adapter=Adapter(own_rank=2)))
    assert from_document(to_document(own)) == own and experiment_digest(own) != experiment_digest(Experiment())
    assert "own_rank" not in str(to_document(Experiment()))
