"""The flame picture: stacks are sums that add up, every second has one owner, and what is sampled is a true simulation."""

import io
import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console
from test_bench import experiment  # of this folder

from fedrelease.simulations.bench import flame
from fedrelease.simulations.bench.flame import Flame, main, sample_worker
from fedrelease.simulations.bench.flame_picture import Box, boxes, flame_png
from fedrelease.simulations.bench.owners import by_owner, largest, owner, short
from fedrelease.simulations.bench.sampler import Sample, fold, folded_text, sampled, stacks_from

TRAIN, STEP = "fedrelease.client.training.train", "fedrelease.client.private_step._formed_step"
CALL, LINEAR = "torch.nn.modules.module.Module._call_impl", "torch.nn.modules.linear.Linear.forward"
STACKS = {
    (TRAIN,): 10,
    (TRAIN, STEP): 20,
    (TRAIN, STEP, CALL): 5,
    (TRAIN, STEP, CALL, LINEAR): 45,
    (TRAIN, "opacus.accountants.rdp.spent"): 20,
}


def test_samples_of_one_stack_are_added_up() -> None:
    assert fold([(("a.f",), 3), (("a.f", "b.g"), 5), (("a.f",), 4)]) == {("a.f",): 7, ("a.f", "b.g"): 5}


def test_folded_stacks_are_a_line_each_and_can_be_read_again() -> None:
    assert folded_text({("a.f",): 7, ("a.f", "b.<lambda>"): 5}) == "a.f 7\na.f;b.<lambda> 5\n"
    assert stacks_from(folded_text(STACKS)) == STACKS


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (STEP, "fedrelease"),
        (LINEAR, "torch"),
        ("transformers.activations.GELUActivation.forward", "transformers"),
        ("torchvision.ops.nms", "other"),
        ("json.loads", "other"),
    ],
)
def test_the_top_package_owns_a_function(function: str, name: str) -> None:
    assert owner(function) == name


def test_shares_of_owners_add_up_to_one() -> None:
    shares = by_owner(STACKS)
    assert sum(shares.values()) == pytest.approx(1)
    assert (shares["fedrelease"], shares["torch"], shares["opacus"], shares["peft"]) == pytest.approx(
        (0.3, 0.5, 0.2, 0)
    )


def test_the_largest_functions_come_first_by_their_own_time() -> None:
    assert [(one.function, one.share) for one in largest(STACKS, 2)] == [(LINEAR, 0.45), (STEP, 0.2)]


def test_our_own_names_are_told_without_the_package() -> None:
    assert short("fedrelease.client.training._stepper.<locals>.<lambda>") == "client.training._stepper.<lambda>"
    assert short(LINEAR) == LINEAR


def test_a_box_is_as_wide_as_its_time_and_below_its_caller() -> None:
    """``_call_impl`` only hands on: what it called stands right below the step, and its own 5 beside that."""
    assert boxes(STACKS) == [
        Box(function=TRAIN, depth=0, left=0, share=1),
        Box(function=STEP, depth=1, left=0, share=0.7),
        Box(function=LINEAR, depth=2, left=0, share=0.45),
        Box(function=CALL, depth=2, left=0.45, share=0.05),
        Box(function="opacus.accountants.rdp.spent", depth=1, left=0.7, share=0.2),
    ]


def test_the_picture_is_a_png_of_1600_pixels_and_the_same_bytes_every_time() -> None:
    png = flame_png(STACKS, title="a title")
    assert png == flame_png(STACKS, title="a title")
    assert imread(io.BytesIO(png)).shape[1] == 1600


def busy(seconds: float) -> str:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return "done"


def test_what_runs_is_seen_and_weighs_the_time_that_it_took() -> None:
    samples: list[Sample] = []
    begun = time.perf_counter()
    assert sampled(partial(busy, 0.2), samples) == "done"
    took = 1e6 * (time.perf_counter() - begun)
    assert {stack[0] for stack, _ in samples} == {f"{__name__}.busy"}
    assert 0.1e6 < sum(microseconds for _, microseconds in samples) <= took


def test_sampling_leaves_nothing_behind_even_if_the_work_fails() -> None:
    switch, threads = sys.getswitchinterval(), threading.active_count()
    with pytest.raises(ZeroDivisionError):
        sampled(partial(divmod, 1, 0), [])
    assert (sys.getswitchinterval(), threading.active_count()) == (switch, threads)


@pytest.fixture(scope="module")
def found(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Flame:
    folder = tmp_path_factory.mktemp("flame")
    described = experiment(tiny_base, folder, privacy='accountant = "rdp"', rounds="1")
    return sample_worker(described, folder=folder / "out", cache=folder / "cache", say=lambda line: None)


@pytest.mark.slow
def test_the_sampled_federation_ends_in_the_state_of_a_usual_one_bit_for_bit(found: Flame) -> None:
    assert found.equal


@pytest.mark.slow
def test_the_worker_is_sampled_below_its_answer_and_in_rounds_only(found: Flame) -> None:
    assert found.samples > 10 and found.seconds > 0
    assert {stack[0] for stack in found.stacks} == {"fedrelease.simulations.worker.answer"}
    assert any(STEP in stack for stack in found.stacks)
    assert not any("fedrelease.server" in function for stack in found.stacks for function in stack)


@pytest.mark.slow
def test_the_stacks_and_the_picture_are_written_and_the_document_is_json(
    found: Flame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flame._finish(found, tmp_path, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal_states"] is True and sum(told["owners"].values()) == pytest.approx(1)
    assert len(told["functions"]) == 10
    assert stacks_from((tmp_path / "flame.txt").read_text()) == found.stacks
    assert (tmp_path / "flame.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_table_names_owners_functions_and_whether_the_states_are_equal(found: Flame) -> None:
    console = Console(width=200, markup=False, highlight=False)
    with console.capture() as captured:
        flame._show(found, console)
    text = captured.get()
    assert text.startswith("one worker of one thread, 3 sites, rounds: 1, epsilon 8: ")
    assert "torch, autograd" in text and text.endswith("last states of a usual run and of this one: equal\n")


def test_a_number_below_one_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--rounds", "0"])
    assert refused.value.code == 2
    assert "0 is below 1" in capsys.readouterr().err
