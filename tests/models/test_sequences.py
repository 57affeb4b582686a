"""Encoders with decoders: losses, gradients by example, what is written, and what is refused."""

from pathlib import Path

import pytest
import torch
from tiny import make_base, make_sequence_base, pair_rows
from transformers import AutoModelForSeq2SeqLM

from fedrelease.client.selftest import check_gradients
from fedrelease.data.tokens import IGNORED, TokenRows
from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment import Adapter, Experiment, Model, Privacy
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import load_state, trainable_state
from fedrelease.models.evaluation import judge, look
from fedrelease.models.sequences import SequenceModel, written
from fedrelease.models.tasks import build_model, task_of
from fedrelease.tasks.overlap import rouge_l

KINDS = ("bart", "t5")
LABELS = ("wrong", "right")
ADAPTERS = {
    "attention": Adapter(rank=2, layers="last:1"),
    "all-linear": Adapter(rank=2, layers="all", targets="all-linear"),
    "core": Adapter(kind="lora-sb", rank=2, layers="all"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sequences")
    untied = make_sequence_base(folder / "untied", "bart", tied=False)
    unscaled = make_sequence_base(
        folder / "unscaled", tied=False
    )  # T5 1.1: read and written by one table, but not scaled
    return {"unscaled": unscaled, "untied": untied, **{kind: make_sequence_base(folder / kind, kind) for kind in KINDS}}


def built(base: Path, adapter: Adapter | None = None) -> SequenceModel:
    model = Model(task="seq2seq", adapter=adapter or ADAPTERS["attention"])
    found = build_model(open_base(str(base), cache=base), model, seed=3)
    assert isinstance(found, SequenceModel)
    return found


def shaken(model: SequenceModel) -> SequenceModel:
    numbers = torch.Generator().manual_seed(5)
    load_state(model, {k: v + 0.3 * torch.randn(v.shape, generator=numbers) for k, v in trainable_state(model).items()})
    return model


@pytest.fixture
def rows(tmp_path: Path, bases: dict[str, Path]) -> TokenRows:
    return pair_rows(tmp_path / "rows.safetensors", bases["t5"])


@pytest.mark.parametrize("kind", [*KINDS, "unscaled", "untied"])
def test_the_losses_of_a_base_are_those_of_transformers_one_row_at_a_time(
    bases: dict[str, Path], rows: TokenRows, kind: str
) -> None:
    whole, model = AutoModelForSeq2SeqLM.from_pretrained(bases[kind]), built(bases[kind])
    together = rows.batch(range(6))
    with torch.no_grad():
        ours = task_of(model).losses(model(*together.inputs), together)
        for row in range(6):
            one = rows.batch([row])
            assert one.targets is not None
            source, target = one.input_ids[one.targets == IGNORED], one.targets[one.targets != IGNORED]
            theirs = whole(input_ids=source[None], labels=target[None]).loss
            assert float(ours[row]) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_example_are_those_of_one_row_at_a_time_through_plain_layers(
    bases: dict[str, Path], rows: TokenRows, kind: str, adapter: str
) -> None:
    check_gradients(built(bases[kind], ADAPTERS[adapter]), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_lie_on_encoder_and_decoder(bases: dict[str, Path], kind: str) -> None:
    names = trainable_state(built(bases[kind]))
    assert {name.partition(".")[0] for name in names} == {"encoder", "decoder"}
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize(("kind", "head"), [("bart", False), ("t5", False), ("untied", True)])
def test_with_every_weight_a_table_that_reads_and_writes_is_in_the_state_once(
    bases: dict[str, Path], kind: str, head: bool
) -> None:
    state = trainable_state(built(bases[kind], Adapter(kind="full")))
    assert ("shared.weight" in state, "head.weight" in state) == (not head, head)
    assert not any("lm_head" in name for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_transformers_own_greedy_search_writes(bases: dict[str, Path], kind: str) -> None:
    whole = AutoModelForSeq2SeqLM.from_pretrained(bases[kind])
    ids = torch.tensor([[14, 15, 4, 16, 3]])
    theirs = whole.generate(ids, max_new_tokens=7, do_sample=False, num_beams=1)[0, 1:].tolist()
    ours = written(built(bases[kind]), ids[0].tolist(), tokens=7, end=3)
    assert ours == theirs[: theirs.index(3) if 3 in theirs else 7]


def test_longest_common_parts_are_counted_by_hand() -> None:
    assert rouge_l([4, 5, 6], [4, 6, 7, 8]) == pytest.approx(2 * 2 / (3 + 4))  # 4 and 6 are common, in this order
    assert rouge_l([5, 4], [4, 5]) == pytest.approx(2 * 1 / 4)
    assert (rouge_l([], [4]), rouge_l([5], [4]), rouge_l([4], [4])) == (0.0, 0.0, 1.0)


def test_the_model_writes_only_where_it_is_asked_to_and_for_eight_rows(bases: dict[str, Path], rows: TokenRows) -> None:
    model = shaken(built(bases["t5"]))
    quiet, asked = judge(model, rows, LABELS), judge(model, rows, LABELS, writes=True)
    assert quiet.sums[:, -2:].abs().sum() == 0 and asked.sums[:, -2].tolist() == [1.0] * 8 + [0.0] * 16
    told = look(model, rows, LABELS)
    metrics = task_of(model).metrics(told.matrix, tuple(asked.sums.sum(0).tolist()))
    assert metrics["rouge_l"] == pytest.approx(float(asked.sums[:8, -1].mean()))
    assert "rouge_l" not in task_of(model).metrics(told.matrix, told.sums)


def test_an_item_is_a_token_of_the_target(bases: dict[str, Path], rows: TokenRows) -> None:
    judged = judge(built(bases["t5"]), rows, LABELS)
    counts = [int((rows.batch([row]).inputs[-1] != IGNORED).sum()) for row in range(len(rows))]
    assert torch.bincount(judged.row).tolist() == counts


def test_a_base_without_a_decoder_and_every_weight_with_privacy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit the task"):
        built(make_base(tmp_path / "bert"))
    whole = Model(task="seq2seq", adapter=Adapter(kind="full"))
    with pytest.raises(ExperimentError, match=r"model\.adapter\.kind"):
        Experiment(model=whole)
    assert Experiment(model=whole, privacy=Privacy(unit="none")).model is whole
