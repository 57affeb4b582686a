"""What cannot be trained privately is refused before anything is: by name, on rows that are nobody's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compatible import Cell, built, cells, tiny
from other_bases import other_base, small_deberta

from fedrelease.data.sample import sample_rows
from fedrelease.data.tokens import TokenRows
from fedrelease.errors import DataError, ModelError
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import Base, open_base
from fedrelease.models.classifier import trainable_state
from fedrelease.models.encoders import setting
from fedrelease.models.engines import check_private, engine_of
from fedrelease.models.images import ImageClassifier
from fedrelease.models.tasks import build_model
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Sample

LABELS = ("negative", "positive")


@pytest.fixture
def deberta(tiny_base: Path, tmp_path: Path) -> Base:
    """Its layers are also given the distances between tokens, which are no example's."""
    return open_base(str(other_base(tiny_base, tmp_path, small_deberta())), cache=tmp_path)


def test_the_engine_is_the_one_that_the_page_says() -> None:
    private = [cell for cell in cells() if cell.says.split(", ")[0] in ("booked", "formed")]
    some = {cell.adapter: cell for cell in private}.values()  # of each adapter one
    assert [engine_of(built(cell)) for cell in some] == [cell.says.split(", ")[0] for cell in some]


def test_a_model_that_can_is_left_as_it_was() -> None:
    model = built(Cell(task="text-classification", adapter="full", base="bert", says="booked"))
    before = trainable_state(model)
    check_private(model, tiny("bert"), labels=LABELS)
    assert all(torch.equal(value, before[name]) for name, value in trainable_state(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(hasattr(parameter, "summed_grad") for parameter in model.parameters())


def test_a_layer_of_a_kind_that_cannot_be_booked_is_refused_by_name() -> None:
    model = built(Cell(task="image-classification", adapter="full", base="convnext", says="no privacy"))
    with pytest.raises(ModelError, match=r"no gradient by example.*ConvNext.*unit = \"none\""):
        check_private(model, tiny("convnext"), labels=LABELS)


def test_a_booked_layer_that_is_given_no_examples_is_refused_before_a_step(deberta: Base) -> None:
    """Only going back through the model shows it: by its kind the layer is a plain one."""
    model = build_model(deberta, Model(adapter=Adapter(kind="full")), seed=3)
    with pytest.raises(ModelError, match=r"sees no examples.*unit = \"none\""):
        check_private(model, deberta, labels=LABELS)


def test_factors_on_a_layer_that_is_given_no_examples_are_refused_by_name(deberta: Base) -> None:
    model = build_model(deberta, Model(adapter=Adapter(targets="all-linear")), seed=3)
    with pytest.raises(
        ModelError, match=r"no gradient by example.*pos_key_proj\.lora_A.*other \[model\.adapter\] targets"
    ):
        check_private(model, deberta, labels=LABELS)


def test_factors_on_that_bases_attention_are_fine_with_other_targets(deberta: Base) -> None:
    model = build_model(deberta, Model(adapter=Adapter(targets="query_proj,value_proj")), seed=3)
    check_private(model, deberta, labels=LABELS)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.reads == "texts"])
def test_a_task_reads_its_own_sample_with_any_labels(task: str) -> None:
    with sample_rows(TASKS[task], tiny("bert"), labels=("some", "other", "third")) as rows:
        assert isinstance(rows, TokenRows)
        assert len(rows) >= 4
        assert len(set(rows.lengths.tolist())) > 1, "batches of rows of one length are never padded"


def test_a_sample_that_its_task_does_not_read_is_refused_with_the_row() -> None:
    wrong = replace(TASKS["text-classification"], sample=Sample(rows=({"text": "fine", "label": "nobody's"},)))
    with (
        pytest.raises(DataError, match="text-classification does not read its own sample: row 1"),
        sample_rows(wrong, tiny("bert"), labels=LABELS),
    ):
        pass


@pytest.mark.parametrize("make", ["bert", "t5"])
def test_a_base_that_does_not_read_from_left_to_right_is_refused_as_a_language_model(make: str) -> None:
    """transformers opens BERT as one, and it would be shown the very token that it is asked for."""
    with pytest.raises(ModelError, match=r"from left to right.*smollm2"):
        build_model(tiny(make), Model(task="causal-lm"), seed=3)


def test_an_adapter_on_a_base_of_convolutions_is_refused_with_what_works() -> None:
    for layers in ("all", "last:1"):
        adapter = Adapter(kind="lora", layers=layers, targets="all-linear")
        with pytest.raises(ModelError, match=r"no linear layer for an adapter.*kind = \"head\", or \"full\""):
            build_model(tiny("resnet"), Model(task="image-classification", adapter=adapter), seed=3)


def test_a_base_that_does_not_count_its_layers_is_refused_where_they_are_counted() -> None:
    model = built(Cell(task="image-classification", adapter="full", base="resnet", says="booked"))
    assert isinstance(model, ImageClassifier)
    with pytest.raises(ModelError, match=r"num_hidden_layers.*layers = \"all\""):
        setting(model.encoder, "num_hidden_layers")
