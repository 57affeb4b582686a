"""A core between frozen bases: where the bases come from, what the layer computes, and its gradient by example."""

from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2
from reference import one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.directions import directions
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.per_example import CoreLinear, per_example, plain_layers
from fedrelease.models.prefix import with_prefix

ALPHA, RANK = 6.0, 3


def built(base: Path, *, layers: str = "all", targets: str = "attention", precision: str = "float32") -> TextClassifier:
    adapter = Adapter(kind="lora-sb", rank=RANK, alpha=ALPHA, layers=layers, targets=targets)
    return build_classifier(
        open_base(str(base), cache=base), Model(adapter=adapter, precision=precision), seed=3
    ).eval()


def shaken(model: TextClassifier) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(5)
    state = {name: 0.3 * torch.randn(t.shape, generator=numbers) for name, t in trainable_state(model).items()}
    load_state(model, state)
    return state


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


def logits(model: nn.Module, rows: TokenRows, count: int = 5) -> Tensor:
    batch = rows.batch(range(count))
    found: Tensor = model(batch.input_ids, batch.attention_mask)
    return found


def test_the_directions_of_a_diagonal_are_its_axes_in_the_order_of_its_values() -> None:
    """diag(2, -5): the larger direction is the second axis; B takes the sign, since A's largest entry is positive."""
    first, second = directions(torch.tensor([[2.0, 0.0, 0.0], [0.0, -5.0, 0.0]]), 2)
    assert first.tolist() == [[0, 1, 0], [1, 0, 0]] and second.tolist() == [[0, 1], [-1, 0]]


def test_they_are_orthonormal_and_span_the_nearest_matrix_of_that_rank() -> None:
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    first, second = directions(weight, 4)
    torch.testing.assert_close(first @ first.T, torch.eye(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(second.T @ second, torch.eye(4), atol=1e-6, rtol=0)
    u, values, v = torch.linalg.svd(weight.double())
    core = second.T @ weight @ first.T
    torch.testing.assert_close((second @ core @ first).double(), u[:, :4] * values[:4] @ v[:4], atol=1e-5, rtol=1e-5)


def test_the_signs_do_not_depend_on_how_the_decomposition_came_out() -> None:
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    (first, second), (other, turned) = directions(weight, 4), directions(-weight, 4)
    torch.testing.assert_close(first, other)
    torch.testing.assert_close(second, -turned)
    assert (first.gather(1, first.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("weight", [torch.eye(4), torch.zeros(4, 4), torch.diag(torch.tensor([3.0, 2.0, 2.0, 1.0]))])
def test_directions_that_are_not_unique_are_refused(weight: Tensor) -> None:
    with pytest.raises(ModelError, match=r"does not say which.*kind = \"lora\""):
        directions(weight, 2)


def test_a_rank_beyond_the_weight_is_refused_with_the_highest_there_is(tiny_base: Path) -> None:
    adapter = Adapter(kind="lora-sb", rank=33)
    with pytest.raises(ModelError, match=r"model.adapter.rank is at most 32.*rank = 32"):
        build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=adapter), seed=3)


def test_a_state_holds_cores_of_zeros_and_the_head_and_nothing_of_the_bases(tiny_base: Path) -> None:
    state = trainable_state(built(tiny_base))
    cores = {name for name in state if name.endswith(".lora_R")}
    assert state.keys() - cores == {"head.bias", "head.weight"} and len(cores) == 4
    assert {tuple(state[name].shape) for name in cores} == {(RANK, RANK)}
    assert not any(state[name].any() for name in cores)
    plain = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(adapter=Adapter(layers="all")), seed=3)
    factors = {name.rpartition(".")[0] for name in trainable_state(plain) if name.endswith("lora_A")}
    assert {name.removesuffix(".lora_R") for name in cores} == factors, "named as LoRA's layers are"


def test_every_process_finds_the_same_bases_bit_for_bit(tiny_base: Path) -> None:
    layers = [[m for m in built(tiny_base).modules() if isinstance(m, CoreLinear)] for _ in range(2)]
    assert len(layers[0]) == 4
    for one, other in zip(*layers, strict=True):
        assert torch.equal(one.first, other.first) and torch.equal(one.second, other.second)


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_gradients_by_example_are_those_of_one_example_at_a_time(
    make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    torch.manual_seed(0)  # GPT-2's weights
    model = built(tiny_base if make == "bert" else other_base(tiny_base, tmp_path, small_gpt2()))
    shaken(model)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    singly = [one_gradient(model, list(trained.values()), rows, row) for row in range(4)]
    with per_example(model):
        loss = functional.cross_entropy(logits(model, rows, 4), rows.batch(range(4)).labels, reduction="sum")
        torch.autograd.backward(loss)
        for place, (name, parameter) in enumerate(trained.items()):
            expected = torch.stack([gradients[place] for gradients in singly])
            assert expected.abs().max() > 0, name
            torch.testing.assert_close(parameter.grad_sample, expected, atol=5e-6, rtol=1e-4)  # type: ignore[attr-defined]
            assert parameter.grad is None


def test_outside_of_it_gradients_and_logits_are_those_of_plain_layers(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base, targets="all-linear")
    shaken(model)
    trained = [value for value in model.parameters() if value.requires_grad]
    with plain_layers(model):
        expected = logits(model, rows)
        wanted = torch.autograd.grad(expected.square().sum(), trained)
    own = logits(model, rows)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
    for found, other in zip(torch.autograd.grad(own.square().sum(), trained), wanted, strict=True):
        torch.testing.assert_close(found, other, atol=1e-4, rtol=1e-3)


def test_a_core_of_zeros_changes_nothing_and_another_one_does(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base)
    bare = build_classifier(open_base(str(tiny_base), cache=tiny_base), Model(), seed=3).eval()
    head = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.head.weight.copy_(head)
        bare.head.weight.copy_(head)
        assert torch.equal(logits(model, rows), logits(bare, rows))
        shaken(model)
        assert not torch.allclose(logits(model, rows), logits(bare, rows), atol=1e-2)


def test_in_bfloat16_the_bases_are_still_those_of_the_weight_that_there_is(tiny_base: Path, rows: TokenRows) -> None:
    """Of a rounded weight they are others; logits stay within a few times 2 ** -8 of the exact ones."""
    exact, short = built(tiny_base), built(tiny_base, precision="bfloat16")
    load_state(short, shaken(exact))
    assert {tensor.dtype for tensor in trainable_state(short).values()} == {torch.float32}
    with torch.no_grad():
        off = (logits(short, rows) - logits(exact, rows)).norm() / logits(exact, rows).norm()
    assert 0 < off < 0.05


def test_logits_with_the_kept_prefix_equal_those_without(tiny_base: Path, rows: TokenRows) -> None:
    model = built(tiny_base, layers="last:1")
    shaken(model)
    kept = with_prefix(model, rows, key="base")
    assert kept.batch([0]).prefix is not None
    assert torch.equal(predict_logits(model, kept), predict_logits(model, rows))


def test_what_is_not_laid_out_by_example_is_refused(tiny_base: Path) -> None:
    model = built(tiny_base)
    layer = next(module for module in model.modules() if isinstance(module, CoreLinear))
    with per_example(model), pytest.raises(ModelError, match=r"sees no examples.*\(6, 32\)"):
        layer(torch.zeros(6, 32))


def test_ranks_by_site_and_residuals_are_loras() -> None:
    with pytest.raises(ExperimentError, match='site_ranks.*left out with kind = "lora-sb"'):
        Adapter(kind="lora-sb", site_ranks={"a": 2})
    with pytest.raises(ExperimentError, match='residual.*left out with kind = "lora-sb"'):
        Adapter(kind="lora-sb", residual=True)
