"""Gradients of every weight without forming any: lengths and sums against one example at a time, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from other_bases import other_base, small_gpt2, small_llama, small_roberta
from reference import norm_of, one_gradient
from tiny import token_rows
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.data.tokens import TokenRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models import booked_layers
from fedrelease.models.bases import open_base
from fedrelease.models.bookkeeping import book_keeping, form_sums, gradient_lengths, keeps_books, squared_lengths
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state

MAKES: dict[str, Callable[[], nn.Module] | None] = {
    "bert": None,
    "gpt2": small_gpt2,
    "llama": small_llama,
    "roberta": small_roberta,
}
LAYER = "encoder.encoder.layer.1"


def built(make: str, tiny_base: Path, tmp_path: Path) -> TextClassifier:
    """A model whose every weight is trained and differs from its neighbours; with the same arguments the same one."""
    torch.manual_seed(0)
    other = MAKES[make]
    folder = tiny_base if other is None else other_base(tiny_base, tmp_path, other())
    model = build_classifier(
        open_base(str(folder), cache=tmp_path), Model(adapter=Adapter(kind="full"), head_scale=3.0), seed=3
    )
    numbers = torch.Generator().manual_seed(5)
    state = trainable_state(model)
    load_state(model, {n: t + 0.2 * torch.randn(t.shape, generator=numbers) for n, t in state.items()})
    return model.eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def back(model: nn.Module, rows: TokenRows, count: int) -> None:
    batch = rows.batch(range(count))
    logits = model(batch.input_ids, batch.attention_mask)
    torch.autograd.backward(functional.cross_entropy(logits, batch.labels, reduction="sum"))


def singly(model: nn.Module, rows: TokenRows, count: int) -> list[list[Tensor]]:
    return [one_gradient(model, list(trained(model).values()), rows, row) for row in range(count)]


def assert_close(found: Tensor, expected: Tensor, name: str = "") -> None:
    """Within 1e-4 of the length of what is expected; a key's bias, whose gradient is zero but for rounding, by its size."""
    assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-6, name


@pytest.fixture
def rows(tmp_path: Path, tiny_base: Path) -> TokenRows:
    return token_rows(tmp_path / "rows.safetensors", tiny_base)


@pytest.fixture(params=["by tokens", "formed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a matrix product's length: from Gram matrices, or from the gradient where tokens cancel; here, always."""
    monkeypatch.setattr(booked_layers, "CANCELLED", 2.0 if request.param == "formed" else 0.0)
    return str(request.param)


@pytest.mark.parametrize("make", MAKES)
def test_lengths_equal_those_of_one_example_at_a_time(
    make: str, way: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = built(make, tiny_base, tmp_path)
    expected = singly(model, rows, 6)
    with book_keeping(model) as books:
        back(model, rows, 6)
        squares = squared_lengths(books)
        assert set(squares) == set(trained(model).values())
        for place, (name, parameter) in enumerate(trained(model).items()):
            assert_close(squares[parameter].sqrt(), torch.stack([one[place].norm() for one in expected]), name)
        assert gradient_lengths(books).tolist() == pytest.approx([norm_of(one) for one in expected], rel=1e-4)


@pytest.mark.parametrize("make", MAKES)
def test_sums_equal_those_of_scaled_gradients_of_one_example_at_a_time(
    make: str, tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model, scales = built(make, tiny_base, tmp_path), torch.tensor([0.3, 0.0, 1.0, 0.7, 0.01])
    expected = singly(model, rows, 5)
    with book_keeping(model) as books:
        for _ in range(2):  # as of two micro-batches
            back(model, rows, 5)
            form_sums(books, scales)
        assert not books.pairs
        for place, (name, parameter) in enumerate(trained(model).items()):
            wanted = sum(2 * float(scale) * one[place] for scale, one in zip(scales, expected, strict=True))
            assert_close(parameter.summed_grad, wanted, name)  # type: ignore[attr-defined, arg-type]  # Opacus' name
            assert parameter.grad is None


@pytest.mark.parametrize("tokens", [5, 40])
def test_long_rows_form_gradients_and_short_ones_do_not(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 tokens: 2 * 5^2 = 50 numbers beside 8 * 16 = 128; 40 tokens: 3200."""
    grams: list[int] = []
    monkeypatch.setattr(booked_layers, "gram", lambda rows: (grams.append(1), torch.bmm(rows, rows.mT))[1])
    given, out = torch.randn(3, tokens, 8), torch.randn(3, tokens, 16)
    pair = booked_layers.Pair(given=given, back=out)
    found = booked_layers._inner(pair, booked_layers.gram)
    assert len(grams) == (2 if tokens == 5 else 0)
    torch.testing.assert_close(found, (out.mT @ given).square().sum((1, 2)), rtol=1e-4, atol=0)


def test_tokens_that_cancel_do_not_hide_a_gradient() -> None:
    """Two tokens, 1000 apart from 0 on either side and 0.3 from each other: squares of 1e12 would leave nothing of 0.09."""
    given = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    out = torch.tensor([[[1e6 + 0.3125, 0.0, 0.0], [-1e6, 0.0, 0.0]]])
    wide = functional.pad(given, (0, 30)), functional.pad(out, (0, 29))
    pair = booked_layers.Pair(given=wide[0], back=wide[1])
    assert float((booked_layers.gram(wide[0]) * booked_layers.gram(wide[1])).sum()) != pytest.approx(0.3125**2, rel=0.1)
    assert float(booked_layers._inner(pair, booked_layers.gram)) == pytest.approx(0.3125**2)


def test_padding_never_counts(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    model, found = built("bert", tiny_base, tmp_path), []
    batch = rows.batch(range(4))
    for more in (0, 7):
        ids, mask = (functional.pad(value, (0, more)) for value in (batch.input_ids, batch.attention_mask))
        with book_keeping(model) as books:
            torch.autograd.backward(functional.cross_entropy(model(ids, mask), batch.labels, reduction="sum"))
            lengths = gradient_lengths(books)
            form_sums(books, torch.ones(4))
            found.append([lengths, *(value.summed_grad for value in trained(model).values())])  # type: ignore[attr-defined]
    for short, long in zip(*found, strict=True):
        assert_close(long, short)


def test_an_example_whose_scale_is_zero_adds_nothing_whatever_it_is(
    tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = built("bert", tiny_base, tmp_path)
    with book_keeping(model) as books:
        back(model, rows, 3)
        for pairs in books.pairs.values():
            for pair in pairs:
                pair.back[1] = torch.nan
                if pair.given.is_floating_point():
                    pair.given[1] = torch.inf
        assert gradient_lengths(books).isfinite().tolist() == [True, False, True]
        form_sums(books, torch.tensor([1.0, 0.0, 1.0]))
        assert all(value.summed_grad.isfinite().all() for value in trained(model).values())  # type: ignore[attr-defined]


def test_layers_that_are_used_many_times_give_the_sum(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    """As in ALBERT, whose layers are one layer."""
    model = built("bert", tiny_base, tmp_path)
    model.layers[1] = model.layers[0]
    expected = singly(model, rows, 4)
    with book_keeping(model) as books:
        back(model, rows, 4)
        assert gradient_lengths(books).tolist() == pytest.approx([norm_of(one) for one in expected], rel=1e-4)
        form_sums(books, torch.ones(4))
        for place, (name, value) in enumerate(trained(model).items()):
            assert_close(value.summed_grad, sum(one[place] for one in expected), name)  # type: ignore[attr-defined, arg-type]


def test_afterwards_nothing_is_left(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    model = built("gpt2", tiny_base, tmp_path)
    with pytest.raises(MemoryError), book_keeping(model) as books:
        back(model, rows, 3)
        form_sums(books, torch.ones(3))
        back(model, rows, 3)
        raise MemoryError
    assert not books.pairs
    assert not model._forward_pre_hooks
    assert not [module for module in model.modules() if "forward" in vars(module)]
    assert not [value for value in model.parameters() if value.grad is not None or hasattr(value, "summed_grad")]


def test_tied_weights_are_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    model = built("gpt2", tiny_base, tmp_path)
    blocks = model.encoder.get_submodule("h")
    blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight  # type: ignore[index]
    refused = pytest.raises(ModelError, match=r"share.*encoder\.h\.0\.mlp\.c_fc\.weight.*kind = \"lora\"")
    with refused, book_keeping(model):
        pass


def test_layers_that_are_not_known_are_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    model = built("bert", tiny_base, tmp_path)
    model.get_submodule("encoder.encoder.layer.1.output").LayerNorm = nn.RMSNorm(32)
    refused = pytest.raises(
        ModelError, match=r"no gradient by example.*output\.LayerNorm\.weight of RMSNorm.*kind = \"lora\""
    )
    with refused, book_keeping(model):
        pass


def test_a_class_below_a_known_one_may_compute_something_else_and_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = built("bert", tiny_base, tmp_path)
    model.get_submodule(f"{LAYER}.output.dense").__class__ = Twice
    with pytest.raises(ModelError, match=r"output\.dense\.weight of Twice"), book_keeping(model):
        pass


def test_a_weight_that_is_used_outside_of_its_layer_is_refused(
    tiny_base: Path, tmp_path: Path, rows: TokenRows
) -> None:
    model = built("bert", tiny_base, tmp_path)
    layer = model.get_submodule(f"{LAYER}.output.dense")
    layer.register_forward_hook(lambda module, given, out: out + module.bias)  # type: ignore[arg-type, operator]
    with book_keeping(model) as books:
        back(model, rows, 2)
        with pytest.raises(ModelError, match=r"outside of its layer.*output\.dense\.bias"):
            gradient_lengths(books)


def test_what_is_not_laid_out_by_example_is_refused(tiny_base: Path, tmp_path: Path, rows: TokenRows) -> None:
    model = built("bert", tiny_base, tmp_path)
    layer = model.get_submodule(f"{LAYER}.output.dense")
    layer.register_forward_pre_hook(lambda module, given: (given[0].flatten(0, 1),))
    with book_keeping(model), pytest.raises(ModelError, match="sees no examples"):
        back(model, rows, 2)


def test_books_are_kept_where_more_than_factors_and_heads_is_trained(tiny_base: Path, tmp_path: Path) -> None:
    base = open_base(str(tiny_base), cache=tmp_path)
    assert keeps_books(built("bert", tiny_base, tmp_path))
    assert not keeps_books(build_classifier(base, Model(adapter=Adapter(rank=2)), seed=3))
