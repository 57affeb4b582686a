"""Of every combination that docs/compatibility.md calls private: the engine's gradients against those of the slow twin."""

from collections.abc import Iterator

import pytest
import torch
from compatible import Cell, built, cells, tiny
from reference import norm_of, slow_gradient
from torch import Tensor, nn

from fedrelease.data.row_files import Rows
from fedrelease.data.sample import sample_rows
from fedrelease.models.bookkeeping import book_keeping, form_sums, gradient_lengths
from fedrelease.models.classifier import canonical_name
from fedrelease.models.network import Network
from fedrelease.models.per_example import per_example
from fedrelease.models.stacked import form_sums as form_stacked_sums
from fedrelease.models.stacked import gradient_lengths as stacked_lengths
from fedrelease.models.stacked import noted, stacked
from fedrelease.models.tasks import task_of

SCALES = (0.5, 0.0, 2.0, 1.0)
"""One an example: what clipping might multiply its gradient by."""
EXAMPLES = range(len(SCALES))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def of_engine(engine: str) -> list[Cell]:
    return [cell for cell in cells() if engine in cell.says.split(", ")]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def singly(model: nn.Module, rows: Rows) -> list[list[Tensor]]:
    return [slow_gradient(model, list(trained(model).values()), rows, row) for row in EXAMPLES]


def summed_loss(model: nn.Module, rows: Rows) -> Tensor:
    batch = rows.batch(EXAMPLES)
    return task_of(model).losses(model(*batch.inputs), batch).sum()


def length(gradients: list[list[Tensor]]) -> float:
    return float(torch.cat([part.flatten() for one in gradients for part in one]).norm())


def assert_close(found: Tensor, expected: Tensor, name: str, whole: float) -> None:
    """Within 1e-4 of the length of what is expected; what is rounding (the bias of keys) within that of the whole gradient."""
    assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-6 * whole, name


@pytest.mark.parametrize("cell", of_engine("formed"), ids=str)
def test_formed_gradients_are_those_of_one_example_at_a_time(cell: Cell) -> None:
    model = built(cell)
    with sample_rows(task_of(model), tiny(cell.base), labels=("no", "yes")) as rows:
        expected = singly(model, rows)
        whole = length(expected)
        with per_example(model):
            torch.autograd.backward(summed_loss(model, rows))
            for place, (name, parameter) in enumerate(trained(model).items()):
                wanted = torch.stack([one[place] for one in expected])
                assert_close(parameter.grad_sample, wanted, name, whole)  # type: ignore[attr-defined]


@pytest.mark.parametrize("cell", of_engine("booked"), ids=str)
def test_booked_lengths_and_scaled_sums_are_those_of_one_example_at_a_time(cell: Cell) -> None:
    model = built(cell)
    with sample_rows(task_of(model), tiny(cell.base), labels=("no", "yes")) as rows:
        expected = singly(model, rows)
        whole = length(expected)
        with book_keeping(model) as books:
            torch.autograd.backward(summed_loss(model, rows))
            assert gradient_lengths(books).tolist() == pytest.approx([norm_of(one) for one in expected], rel=1e-4)
            form_sums(books, torch.tensor(SCALES))
            for place, (name, parameter) in enumerate(trained(model).items()):
                wanted = sum(scale * one[place] for scale, one in zip(SCALES, expected, strict=True))
                assert_close(parameter.summed_grad, wanted, name, whole)  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("cell", of_engine("together"), ids=str)
def test_lengths_and_scaled_sums_of_many_sites_are_those_of_one_example_at_a_time(cell: Cell) -> None:
    model = built(cell)
    assert isinstance(model, Network)
    with sample_rows(task_of(model), tiny(cell.base), labels=("no", "yes")) as rows:
        expected = singly(model, rows)
        batch = rows.batch(EXAMPLES)
        with stacked(model, 1):
            logits = model(batch.inputs[0][None])[0]
            parts = noted(model, nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
            lengths = stacked_lengths(parts)[0].tolist()
            assert lengths == pytest.approx([norm_of(one) for one in expected], rel=1e-4)
            form_stacked_sums(parts, torch.tensor([SCALES]))
            for place, (name, parameter) in enumerate(model.named_parameters()):
                wanted = sum(scale * one[place] for scale, one in zip(SCALES, expected, strict=True))
                assert_close(parameter.grad[0], wanted, canonical_name(name), 1.0)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("cell", [cell for cell in cells() if not cell.says.startswith("no (")], ids=str)
def test_gradients_without_privacy_are_the_sums_of_those_of_one_example_at_a_time(cell: Cell) -> None:
    model = built(cell)
    with sample_rows(task_of(model), tiny(cell.base), labels=("no", "yes")) as rows:
        expected = singly(model, rows)
        whole = length(expected)
        found = torch.autograd.grad(summed_loss(model, rows), list(trained(model).values()))
    for place, (name, gradient) in enumerate(zip(trained(model), found, strict=True)):
        assert_close(gradient, torch.stack([one[place] for one in expected]).sum(0), name, whole)
