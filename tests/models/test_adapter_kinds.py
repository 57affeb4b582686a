"""Every kind of adapter on every make of base: where it begins, what is trained, and its gradients by example."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2, small_llama, small_roberta
from reference import one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.adapter import ADAPTER_KINDS
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.bookkeeping import book_keeping, form_sums, gradient_lengths, keeps_books
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.per_example import per_example
from fedrelease.models.prefix import with_prefix

MAKES: dict[str, Callable[[], nn.Module] | None] = {
    "bert": None,
    "gpt2": small_gpt2,
    "llama": small_llama,
    "roberta": small_roberta,
}
BY_EXAMPLE = [kind for kind in ADAPTER_KINDS if kind != "full"]
"""A GPT-2 or Llama of which all is trained has books of its own tests."""


def built(kind: str, make: str, tiny_base: Path, tmp_path: Path, *, layers: str = "last:1") -> TextClassifier:
    torch.manual_seed(0)
    other = MAKES[make]
    folder = tiny_base if other is None else other_base(tiny_base, tmp_path, other())
    adapter = Adapter(kind=kind, rank=2, layers=layers, targets="all-linear")
    return build_classifier(open_base(str(folder), cache=tmp_path), Model(adapter=adapter), seed=3).eval()


def shaken(model: TextClassifier) -> TextClassifier:
    """Every number of its state moved, so that no zero hides what is wrong with another one's gradient."""
    numbers = torch.Generator().manual_seed(5)
    state = trainable_state(model)
    load_state(model, {n: t + 0.3 * torch.randn(t.shape, generator=numbers) for n, t in state.items()})
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def back(model: TextClassifier, rows: TokenRows, count: int) -> None:
    batch = rows.batch(range(count))
    logits = model(batch.input_ids, batch.attention_mask)
    torch.autograd.backward(functional.cross_entropy(logits, batch.labels, reduction="sum"))


def weighted_sums(model: TextClassifier, rows: TokenRows, scales: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Each example's length of gradient, and the sum of gradients times ``scales``, in the way that this model has."""
    count = len(scales)
    if keeps_books(model):
        with book_keeping(model) as books:
            back(model, rows, count)
            lengths = gradient_lengths(books)
            form_sums(books, scales)
            return lengths, {name: value.summed_grad for name, value in trained(model).items()}  # type: ignore[attr-defined]
    with per_example(model):
        back(model, rows, count)
        each = {name: value.grad_sample.flatten(1) for name, value in trained(model).items()}  # type: ignore[attr-defined]
    lengths = torch.cat(list(each.values()), 1).norm(dim=1)
    return lengths, {name: (scales @ found).view_as(trained(model)[name]) for name, found in each.items()}


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


@pytest.mark.parametrize("kind", BY_EXAMPLE)
@pytest.mark.parametrize("make", MAKES)
def test_lengths_and_scaled_sums_are_those_of_one_example_at_a_time(
    make: str, kind: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model, scales = shaken(built(kind, make, tiny_base, tmp_path)), torch.tensor([0.3, 1.0, 0.0, 0.7])
    singly = [one_gradient(model, list(trained(model).values()), rows, row) for row in range(4)]
    lengths, sums = weighted_sums(model, rows, scales)
    for length, gradients in zip(lengths.tolist(), singly, strict=True):
        assert length == pytest.approx(float(torch.cat([one.flatten() for one in gradients]).norm()), rel=1e-4)
    for place, (name, found) in enumerate(sums.items()):
        wanted = sum(scale * one[place] for scale, one in zip(scales, singly, strict=True))
        assert float((found - wanted).norm()) <= 1e-4 * float(torch.as_tensor(wanted).norm()) + 1e-6, name


@pytest.mark.parametrize("kind", [kind for kind in BY_EXAMPLE if kind not in ("prefix", "prompt")])
def test_the_first_state_says_what_the_base_says(kind: str, tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    """Through a head of ones in its first row, since a head of zeros says nothing."""
    found = []
    for one in (kind, "head"):
        model = built(one, "bert", tiny_base, tmp_path)
        with torch.no_grad():
            model.head.weight[0] = torch.arange(32.0)
        found.append(predict_logits(model, rows))
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_every_process_begins_with_the_same_state_and_one_that_was_trained_takes_it_back(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    first = trainable_state(built(kind, "bert", tiny_base, tmp_path))
    other = shaken(built(kind, "bert", tiny_base, tmp_path))
    assert all(not torch.equal(first[name], found) for name, found in trainable_state(other).items())
    load_state(other, first)
    assert all(torch.equal(first[name], found) for name, found in trainable_state(other).items())


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_logits_with_what_is_kept_of_frozen_layers_are_those_without(
    kind: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = shaken(built(kind, "bert", tiny_base, tmp_path))
    kept = with_prefix(model, rows, key=kind)
    assert (kept.batch([0]).prefix is not None) == (model.frozen_layers > 0)
    assert torch.equal(predict_logits(model, kept), predict_logits(model, rows))


@pytest.mark.parametrize(
    ("kind", "layers", "numbers", "frozen"),
    [
        ("head", "last:1", 66, 2),  # 2 labels x 32, and 2
        ("norms", "last:1", 66 + 2 * 64, 1),  # two LayerNorms of 32 weights and 32 biases
        ("norms", "all", 66 + 5 * 64, 0),  # two a layer, and that of the tables
        ("layers", "last:1", 66 + 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64, 1),
        ("layers", "all", 66 + 2 * (4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64), 0),
    ],
)
def test_so_many_numbers_are_trained_and_so_many_layers_are_frozen_below_them(
    kind: str, layers: str, numbers: int, frozen: int, tiny_base: Path, tmp_path: Path
) -> None:
    model = built(kind, "bert", tiny_base, tmp_path, layers=layers)
    assert sum(value.numel() for value in trainable_state(model).values()) == numbers
    assert model.frozen_layers == frozen


def test_the_states_of_own_weights_are_the_bases_own_bits(tiny_base: Path, tmp_path: Path) -> None:
    state = trainable_state(built("layers", "bert", tiny_base, tmp_path))
    whole = trainable_state(built("full", "bert", tiny_base, tmp_path))
    assert len(state) == 2 + 16 and all(torch.equal(tensor, whole[name]) for name, tensor in state.items())
    assert {name.split(".layer.")[1][0] for name in state if not name.startswith("head.")} == {"1"}


@pytest.mark.parametrize("kind", ["layers", "norms"])
def test_weights_of_the_base_are_not_trained_in_bfloat16(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    model = Model(adapter=Adapter(kind=kind), precision="bfloat16")
    with pytest.raises(ModelError, match="weights of the base are trained, in bfloat16"):
        build_classifier(open_base(str(tiny_base), cache=tmp_path), model, seed=3)


@pytest.mark.parametrize("kind", ["layers", "norms"])
def test_more_layers_than_the_base_has_are_refused_by_number(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fewer layers.*last:3.*at most last:2"):
        built(kind, "bert", tiny_base, tmp_path, layers="last:3")


def test_a_head_alone_is_refused_where_the_only_head_is_the_bases_own() -> None:
    from fedrelease.experiment import Experiment

    with pytest.raises(ExperimentError, match=r'stays frozen: nothing would be trained.*kind = "norms"'):
        Experiment(model=Model(task="causal-lm", adapter=Adapter(kind="head")))
