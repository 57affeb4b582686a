"""A number for a text: what is read, right, told and refused. Here -4 to 4, so that 1.0 outside is 0.25 inside."""

import itertools
import math

import numpy
import pytest
import torch
from torch import Tensor

from fedrelease.data.cells import BadRow, Cells, Example
from fedrelease.data.rows import RawRow
from fedrelease.data.tokens import Batch
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Data, Experiment, Model, Partition
from fedrelease.models.evaluation import bounded, tally
from fedrelease.scale import scale_of
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Judged, measured

TASK = TASKS["regression"]
LABELS = ("off", "near")
DATA = Data(range=(-4.0, 4.0), tolerance=1.0)


def read(value: object) -> Example:
    return TASK.read(Cells(row=RawRow(line=2, values={"text": "fine", "label": value}), labels=LABELS), DATA)


def batch_of(truth: list[float], near: float = 0.25) -> Batch:
    ids = torch.ones(len(truth), 2, dtype=torch.int64)
    values = torch.tensor([[value, near] for value in truth])
    return Batch(input_ids=ids, attention_mask=ids, labels=ids[:, 0], values=values)


def judged(truth: list[float], said: list[float]) -> Judged:
    return TASK.judge(torch.tensor(said)[:, None], batch_of(truth), LABELS)


@pytest.mark.parametrize(("value", "inside"), [("3", 0.75), (-4, -1.0), (1.5, 0.375), (" +.5e0 ", 0.125)])
def test_a_number_is_read_as_halves_of_its_range(value: object, inside: float) -> None:
    found = read(value)
    assert (found.values, found.content) == ((inside, 0.25), inside * 4)


@pytest.mark.parametrize("value", ["five", "", "1_0", "nan", "inf", True, "4.5", "-4.01", [1]])
def test_what_is_no_number_of_the_range_is_refused(value: object) -> None:
    with pytest.raises(BadRow, match="not a number|not between -4 and 4, the ends of"):
        read(value)


def test_the_identity_of_a_row_does_not_change_with_range_and_tolerance() -> None:
    row = RawRow(line=2, values={"text": "fine", "label": "1"})
    other = TASK.read(Cells(row=row, labels=LABELS), Data(range=(0.0, 2.0), tolerance=0.1))
    assert (other.text, other.content) == (read("1").text, read("1").content)
    assert other.values != read("1").values


def test_a_number_is_right_within_the_tolerance_and_beyond_the_range_counts_as_its_end() -> None:
    """0.3 is 0.25 from 0.05 and 0.3 from 0; 7 counts as 1, which is 0.2 from 0.8; what is no number is off."""
    found = judged([0.05, 0.0, 0.8, 0.0], [0.3, 0.3, 7.0, math.nan])
    assert found.predicted.tolist() == [1, 0, 1, 0]
    assert found.truth.tolist() == [1, 1, 1, 1]


def test_the_loss_is_the_squared_error_of_what_was_said_and_not_of_the_nearer_end() -> None:
    numbers: Tensor = torch.tensor([[2.0], [0.5]])
    assert TASK.losses(numbers, batch_of([0.5, 0.0])).tolist() == [2.25, 0.25]


def test_metrics_are_those_of_numpy_in_the_unit_of_the_rows() -> None:
    generator = numpy.random.default_rng(3)
    truth, said = generator.uniform(-1, 1, 50), generator.uniform(-1, 1, 50)
    told = tally(judged(truth.tolist(), said.tolist()), classes=2)
    found = measured(TASK, told.matrix, told.sums, unit=4.0)
    explained = 1 - ((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert found["mean_absolute_error"] == pytest.approx(4 * abs(truth - said).mean(), rel=1e-5)
    assert found["pearson"] == pytest.approx(numpy.corrcoef(truth, said)[0, 1], rel=1e-4)
    assert found["r2"] == pytest.approx(explained, rel=1e-4)
    assert found["accuracy"] == (abs(truth - said) <= 0.25).mean()
    assert found["examples"] == 50


def test_equal_numbers_have_no_correlation_and_nothing_at_all_no_metric() -> None:
    same = tally(judged([0.5, 0.5], [0.5, 0.25]), classes=2)
    assert set(TASK.metrics(same.matrix, same.sums)) == {"accuracy", "mean_absolute_error", "examples"}
    assert TASK.metrics(numpy.zeros((2, 2)), (0.0,) * 6) == {}


def test_one_row_moves_what_is_told_with_noise_by_at_most_the_promised_length() -> None:
    """The corners of what truth and answer can be, a little beyond them, and no number at all."""
    lengths = []
    for truth, said in itertools.product([-1.0, 0.0, 1.0], [-1.0, -0.3, 0.0, 1.0, 9.0, math.nan]):
        told = bounded(judged([truth], [said]), classes=2, bound=TASK.bound, sums=len(TASK.sums))
        assert numpy.linalg.norm(told.matrix) <= 1
        lengths.append(math.hypot(*told.sums))
    assert max(lengths) == pytest.approx(TASK.bound)  # 3 at truth 1 and answer -1: no less would do


def test_noise_may_leave_metrics_out_and_never_makes_them_impossible() -> None:
    generator = numpy.random.default_rng(1)
    for _ in range(200):
        found = TASK.metrics(generator.normal(5, 9, (2, 2)), generator.normal(0, 9, 6).tolist())
        assert all(math.isfinite(value) for value in found.values())
        assert 0 <= found.get("mean_absolute_error", 0) <= 2
        assert -1 <= found.get("pearson", 0) <= 1 and found.get("r2", 0) <= 1


def test_a_scale_goes_into_halves_and_out_again_even_where_the_length_of_the_range_is_no_float() -> None:
    wide = scale_of((-1.5e308, 1.5e308), None)
    assert (wide.unit, wide.middle, wide.near) == (1.5e308, 0.0, 0.2)
    scale = scale_of((1.0, 5.0), 0.5)
    assert (scale.into(2.0), scale.out(-0.5), scale.near) == (-0.5, 2.0, 0.25)


@pytest.mark.parametrize("ends", [(), (1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (0.0, 1.0, 2.0)])
def test_a_range_that_is_none_is_refused(ends: tuple[float, ...]) -> None:
    with pytest.raises(ExperimentError, match=r"data\.range is the least and the greatest number"):
        Data(range=ends)


@pytest.mark.parametrize(
    ("model", "data", "key"),
    [
        (Model(task="regression"), Data(), "data.range"),
        (Model(), Data(range=(0.0, 1.0)), "data.range"),
        (Model(), Data(tolerance=0.1), "data.tolerance"),
        (Model(task="regression"), Data(range=(0.0, 1.0), partition=Partition(by="dirichlet")), "data.partition.by"),
        (Model(task="regression"), Data(range=(0.0, 1.0), partition=Partition(by="virtual")), "data.partition.by"),
    ],
)
def test_what_does_not_go_with_numbers_is_refused_by_its_key(model: Model, data: Data, key: str) -> None:
    with pytest.raises(ExperimentError, match=f"^{key} is out of bounds"):
        Experiment(model=model, data=data)


def test_labels_are_left_out_and_a_tolerance_fits_into_the_range() -> None:
    with pytest.raises(ExperimentError, match=r"model\.labels"):
        Model(task="regression", labels=("low", "high"))
    with pytest.raises(ExperimentError, match=r"data\.tolerance"):
        Data(range=(0.0, 1.0), tolerance=0.6)
    assert Model(task="regression").labels == LABELS
