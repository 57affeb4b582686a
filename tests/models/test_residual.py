"""A LoRA layer with a residual: what it computes, what a state holds of it, and that nobody trains it."""

from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2
from reference import one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.factors import RESIDUAL, residuals_of, trained_part
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.per_example import per_example, plain_layers
from fedrelease.models.prefix import with_prefix

ALPHA, RANK = 6.0, 2


def built(base: Path, *, layers: str = "all", residual: bool = True, precision: str = "float32") -> TextClassifier:
    adapter = Adapter(rank=RANK, alpha=ALPHA, layers=layers, residual=residual)
    return build_classifier(
        open_base(str(base), cache=base), Model(adapter=adapter, precision=precision), seed=3
    ).eval()


def shaken(model: TextClassifier, *, seed: int = 5) -> dict[str, Tensor]:
    """Put random numbers into all of a state, residuals included."""
    numbers = torch.Generator().manual_seed(seed)
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


def test_a_state_holds_a_residual_of_the_weights_shape_for_each_layer_with_factors(tiny_base: Path) -> None:
    state = trainable_state(built(tiny_base))
    assert {tuple(state[name].shape) for name in residuals_of(state)} == {(32, 32)}
    assert len(residuals_of(state)) == 4 and not any(state[name].any() for name in residuals_of(state))
    bare = trainable_state(built(tiny_base, residual=False))
    assert trained_part(state).keys() == bare.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in bare.items()), "and draws the same factors"


def test_logits_are_those_of_a_base_with_the_residual_in_its_weight(tiny_base: Path, rows: TokenRows) -> None:
    model, twin = built(tiny_base), built(tiny_base, residual=False)
    state = shaken(model)
    load_state(twin, trained_part(state))
    with torch.no_grad():
        before = logits(twin, rows)
        for name in residuals_of(state):
            weight = twin.encoder.get_submodule(name.removesuffix(RESIDUAL)).base_layer.weight  # type: ignore[union-attr]
            weight += ALPHA / RANK * state[name]
        torch.testing.assert_close(logits(model, rows), logits(twin, rows), atol=1e-5, rtol=1e-4)
        assert (logits(model, rows) - before).abs().max() > 0.01


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_gradients_by_example_are_those_of_one_example_at_a_time(
    make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    """GPT-2's weights lie the other way round, and query, key and value are one: [96, 32] beside factors."""
    torch.manual_seed(0)  # GPT-2's weights
    model = built(tiny_base if make == "bert" else other_base(tiny_base, tmp_path, small_gpt2()))
    shaken(model)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert not any("residual" in name for name in trained)
    singly = [one_gradient(model, list(trained.values()), rows, row) for row in range(4)]
    with per_example(model):
        batch = rows.batch(range(4))
        loss = functional.cross_entropy(logits(model, rows, 4), batch.labels, reduction="sum")
        torch.autograd.backward(loss)
        for place, parameter in enumerate(trained.values()):
            expected = torch.stack([gradients[place] for gradients in singly])
            torch.testing.assert_close(parameter.grad_sample, expected, atol=5e-6, rtol=1e-4)  # type: ignore[attr-defined]
        assert not any(hasattr(v, "grad_sample") for v in model.parameters() if not v.requires_grad)
    assert all(value.grad is None for value in model.parameters())


def test_the_twin_of_plain_layers_has_the_residual_too(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base)
    shaken(model)
    own = logits(model, rows)
    with plain_layers(model):
        torch.testing.assert_close(logits(model, rows), own, atol=1e-6, rtol=1e-5)


def test_in_bfloat16_the_residual_is_rounded_as_the_factors_are(tiny_base: Path, rows: TokenRows) -> None:
    """bfloat16 has 8 bits: a product of rounded numbers is off by about 2 ** -8 of its length, and so are logits' moves."""
    exact, short = built(tiny_base), built(tiny_base, precision="bfloat16")
    state = shaken(exact)
    load_state(short, state)
    assert {tensor.dtype for tensor in trainable_state(short).values()} == {torch.float32}
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(short).items())
    with torch.no_grad():
        off = (logits(short, rows) - logits(exact, rows)).norm() / logits(exact, rows).norm()
    assert 0 < off < 0.05


def test_the_kept_prefix_does_not_depend_on_the_residual(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base, layers="last:1")
    kept = with_prefix(model, rows, key="base")
    (file,) = rows.path.parent.glob("*.prefix-*")
    before = file.read_bytes()
    for seed in (5, 6):
        shaken(model, seed=seed)
        assert torch.equal(predict_logits(model, kept), predict_logits(model, rows))
    assert kept.batch([0]).prefix is not None
    file.unlink()
    with_prefix(model, rows, key="base")
    assert file.read_bytes() == before


def test_drawing_anew_empties_the_residual(tiny_base: Path) -> None:
    model = built(tiny_base)
    start = trainable_state(model)
    shaken(model)
    model.draw(3)
    assert all(torch.equal(tensor, start[name]) for name, tensor in trainable_state(model).items())


def test_a_state_without_residuals_does_not_fit_a_model_that_has_them(tiny_base: Path) -> None:
    model, state = built(tiny_base), trainable_state(built(tiny_base, residual=False))
    with pytest.raises(ModelError, match=r"another adapter.*residual"):
        load_state(model, state)
    with pytest.raises(ModelError, match=r"another adapter.*residual"):
        load_state(built(tiny_base, residual=False), trainable_state(model))


def test_a_tensor_of_that_name_beside_no_factors_is_no_residual() -> None:
    state = {"block.residual": torch.ones(2), "q.lora_A": torch.ones(1, 2), "q.lora_B": torch.ones(2, 1)}
    assert residuals_of(state) == frozenset() and trained_part(state) == state
    assert residuals_of({**state, "q.residual": torch.ones(2, 2)}) == {"q.residual"}
