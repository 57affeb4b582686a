"""Gradients, losses and outcomes of tasks on texts with numbers, many labels or two texts: each row by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from text_tasks import make_model, make_pair_base, many_rows, number_rows, pair_rows

from fedrelease.client.selftest import check_gradients
from fedrelease.client.selftest_truth import shaken
from fedrelease.client.training import summed_loss
from fedrelease.data.tokens import TokenRows
from fedrelease.models.evaluation import judge, look, outcomes
from fedrelease.models.per_example import per_example
from fedrelease.models.prefix import with_prefix
from fedrelease.models.tasks import task_of

ROWS: dict[str, Callable[[Path, Path], TokenRows]] = {
    "multi-label-classification": many_rows,
    "pair-classification": pair_rows,
    "regression": number_rows,
}
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_base(tmp_path_factory.mktemp("pairs") / "base")


@pytest.fixture(params=sorted(ROWS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rows(tmp_path: Path, base: Path, task: str) -> TokenRows:
    return ROWS[task](tmp_path / "rows.safetensors", base)


@pytest.mark.parametrize("kind", ["lora", "lora-sb", "full"])
def test_gradients_by_example_are_those_of_one_example_at_a_time(
    base: Path, rows: TokenRows, task: str, kind: str
) -> None:
    """The check before private training; with factors also against one backward pass a row."""
    model = make_model(base, task, kind=kind)
    check_gradients(model, rows)
    if kind == "full":
        return  # no example's gradient is formed: the check compared lengths and sums
    trained = [value for value in model.parameters() if value.requires_grad]
    with shaken(dict(model.named_parameters())), per_example(model):
        summed_loss(model, rows, torch.arange(4)).backward()
        together = [value.grad_sample.clone() for value in trained]  # type: ignore[attr-defined]
        for value in trained:
            value.grad_sample = None  # type: ignore[attr-defined]
        for row in range(4):
            summed_loss(model, rows, torch.tensor([row])).backward()
            for value, found in zip(trained, together, strict=True):
                torch.testing.assert_close(found[row], value.grad_sample[0], rtol=1e-3, atol=1e-6)  # type: ignore[attr-defined]
                value.grad_sample = None  # type: ignore[attr-defined]


def test_a_rows_loss_does_not_depend_on_the_rows_beside_it(base: Path, rows: TokenRows, task: str) -> None:
    model = make_model(base, task)
    whole, alone = rows.batch([0, 7, 9]), rows.batch([7])
    losses = task_of(model).losses
    with torch.no_grad():
        beside, by_itself = losses(model(*whole.inputs), whole)[1], losses(model(*alone.inputs), alone)[0]
    torch.testing.assert_close(beside, by_itself, rtol=1e-4, atol=1e-6)


def test_what_is_judged_does_not_depend_on_the_rows_beside(base: Path, rows: TokenRows, task: str) -> None:
    model = make_model(base, task)
    whole, alone = judge(model, rows, LABELS), judge(model, rows.chosen(torch.tensor([7])), LABELS)
    assert torch.equal(whole.predicted[whole.row == 7], alone.predicted)
    torch.testing.assert_close(whole.sums[7:8], alone.sums, atol=1e-5, rtol=1e-4)


def test_a_kept_prefix_changes_no_output(base: Path, rows: TokenRows, task: str) -> None:
    """Segments go into the layers below the adapter, so that they are in what is kept."""
    model = make_model(base, task)
    assert model.frozen_layers == 1
    carrying, places = with_prefix(model, rows, key="test"), torch.arange(9)
    with torch.no_grad():
        torch.testing.assert_close(
            model(*carrying.batch(places).inputs), model(*rows.batch(places).inputs), atol=1e-5, rtol=1e-4
        )


def test_rows_with_other_numbers_are_another_evaluation_set(base: Path, tmp_path: Path) -> None:
    model, rows = make_model(base, "regression"), number_rows(tmp_path / "rows.safetensors", base)
    answers = ("off", "near")
    before = outcomes(judge(model, rows, answers), rows, answers).parts["near"]
    rows._values = -rows._values  # type: ignore[operator]  # the same texts, rated otherwise
    assert outcomes(judge(model, rows, answers), rows, answers).parts["near"] != before


def test_a_look_counts_what_items_are_answered_with(base: Path, tmp_path: Path) -> None:
    many = look(make_model(base, "multi-label-classification"), many_rows(tmp_path / "many", base), LABELS)
    assert (many.matrix.shape, many.matrix.sum()) == ((6, 6), 24 * 3)
    numbers = look(make_model(base, "regression"), number_rows(tmp_path / "numbers", base), ("off", "near"))
    assert (numbers.matrix.shape, numbers.matrix.sum(), numbers.matrix[0].sum()) == ((2, 2), 24, 0)
