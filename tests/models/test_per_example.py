"""The gradient of each example, against one example at a time through PEFT's and torch's own layers, and against Opacus."""

from pathlib import Path

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from other_bases import other_base, small_gpt2, small_llama
from reference import one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.per_example import per_example, plain_layers

MAKES = ["bert", "gpt2", "llama"]


def built(make: str, targets: str, tiny_base: Path, tmp_path: Path) -> TextClassifier:
    """A model with random factors; with the same arguments the same one."""
    torch.manual_seed(0)
    folder = tiny_base
    if make != "bert":
        folder = other_base(tiny_base, tmp_path, small_gpt2() if make == "gpt2" else small_llama())
    adapter = Adapter(rank=2, layers="all", targets=targets)
    model = build_classifier(open_base(str(folder), cache=tmp_path), Model(adapter=adapter), seed=3)
    numbers = torch.Generator().manual_seed(5)
    load_state(model, {n: 0.3 * torch.randn(t.shape, generator=numbers) for n, t in trainable_state(model).items()})
    return model.eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def summed_loss(model: nn.Module, rows: TokenRows, count: int) -> Tensor:
    batch = rows.batch(range(count))
    return functional.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels, reduction="sum")


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("make", MAKES)
def test_gradients_by_example_equal_those_of_one_example_at_a_time(
    make: str, targets: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = built(make, targets, tiny_base, tmp_path)
    singly = [one_gradient(model, list(trained(model).values()), rows, row) for row in range(5)]
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, 5))
        for place, (name, parameter) in enumerate(trained(model).items()):
            expected = torch.stack([gradients[place] for gradients in singly])
            assert expected.abs().max() > 0, name
            torch.testing.assert_close(parameter.grad_sample, expected, atol=5e-6, rtol=1e-4)  # type: ignore[attr-defined]
            assert parameter.grad is None


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_gradients_by_example_equal_those_of_opacus(
    make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = built(make, "attention", tiny_base, tmp_path).train()
    with plain_layers(model):
        hooks = GradSampleHooks(model, loss_reduction="sum")
        with pytest.warns(UserWarning, match="Full backward hook"):
            torch.autograd.backward(summed_loss(model, rows, 5))
        expected = {name: value.grad_sample for name, value in trained(model).items()}  # type: ignore[attr-defined]
        hooks.cleanup()
    for parameter in model.parameters():
        parameter.grad = None
        vars(parameter).pop("grad_sample", None)
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, 5))
        for name, parameter in trained(model).items():
            torch.testing.assert_close(parameter.grad_sample, expected[name], atol=1e-6, rtol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", MAKES)
def test_outside_of_it_gradients_are_plain_sums(make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    model = built(make, "attention", tiny_base, tmp_path)
    with plain_layers(model):
        loss = summed_loss(model, rows, 6)
        expected = torch.autograd.grad(loss, list(trained(model).values()))
    own = summed_loss(model, rows, 6)
    torch.testing.assert_close(own, loss)
    for found, wanted in zip(torch.autograd.grad(own, list(trained(model).values())), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_a_frozen_factor_has_no_gradient(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    model = built("bert", "attention", tiny_base, tmp_path)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, 3))
        noted = {name for name, value in model.named_parameters() if hasattr(value, "grad_sample")}
    assert noted == set(trained(model))
    assert not any(hasattr(value, "grad_sample") for value in model.parameters())


def test_a_layer_that_is_used_twice_gives_the_sum_of_both(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    """Bases that share their layers (ALBERT) call one layer many times in a forward."""
    model = built("bert", "attention", tiny_base, tmp_path)
    layers = model.layers
    layers[1] = layers[0]
    singly = [one_gradient(model, list(trained(model).values()), rows, row) for row in range(3)]
    with per_example(model):
        torch.autograd.backward(summed_loss(model, rows, 3))
        for place, parameter in enumerate(trained(model).values()):
            expected = torch.stack([gradients[place] for gradients in singly])
            torch.testing.assert_close(parameter.grad_sample, expected, atol=5e-6, rtol=1e-4)  # type: ignore[attr-defined]


def test_a_trained_parameter_without_a_gradient_by_example_is_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    model = built("bert", "attention", tiny_base, tmp_path)
    model.layers[0].attention.output.LayerNorm.weight.requires_grad_(True)  # type: ignore[union-attr, operator]
    refused = pytest.raises(ModelError, match=r"no gradient by example.*layer\.0\.attention\.output\.LayerNorm\.weight")
    with refused, per_example(model):
        pass


def test_what_is_not_laid_out_by_example_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    model = built("bert", "attention", tiny_base, tmp_path)
    layer = model.layers[0].attention.self.query  # type: ignore[union-attr]
    with per_example(model), pytest.raises(ModelError, match=r"sees no examples.*\(6, 32\)"):
        layer(torch.zeros(6, 32))
