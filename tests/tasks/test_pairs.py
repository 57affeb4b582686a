"""Two texts and a label: how they become tokens, and what is refused."""

from pathlib import Path

import pytest
from text_tasks import make_model, make_pair_base, pair_rows
from tiny import WORDS, make_language_base

from fedrelease.data.cells import BadRow, Cells
from fedrelease.data.pairs import tokenise_pairs
from fedrelease.data.rows import RawRow
from fedrelease.data.tokens import TokenRows, load_tokenizer, save_rows
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Data, Experiment, Model
from fedrelease.tasks import TASKS

TASK = TASKS["pair-classification"]
DATA = Data(text_pair="second")
CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")
FILM, BOOK, GOOD = WORDS.index("film"), WORDS.index("book"), WORDS.index("good")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_base(tmp_path_factory.mktemp("pairs") / "base")


def test_texts_are_put_together_as_the_bases_tokenizer_does_and_told_apart_by_segments(
    base: Path, tmp_path: Path
) -> None:
    pairs = [("film", "book good"), ("good", "film")]
    save_rows(tmp_path / "rows", tokenise_pairs(pairs, [1, 0], load_tokenizer(base), 32))
    batch = TokenRows(tmp_path / "rows").batch([0, 1])
    assert batch.input_ids.tolist() == [[CLS, FILM, SEP, BOOK, GOOD, SEP], [CLS, GOOD, SEP, FILM, SEP, 0]]
    assert batch.segments is not None
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch.labels.tolist() == [1, 0]


def test_a_pair_that_is_too_long_loses_tokens_of_its_longer_text(base: Path) -> None:
    rows = tokenise_pairs([("film " * 9, "good")], [0], load_tokenizer(base), 8)
    assert rows["input_ids"].tolist() == [CLS, *[FILM] * 4, SEP, GOOD, SEP]


def test_where_a_tokenizer_puts_nothing_between_two_texts_a_line_break_does(tmp_path: Path) -> None:
    """The language bases of the tests add no token at all."""
    tokenizer = load_tokenizer(make_language_base(tmp_path / "base", "gpt2"))
    rows = tokenise_pairs([("film", "book")], [0], tokenizer, 8)
    assert rows["input_ids"].tolist() == [FILM, BOOK]
    assert "segments" not in rows


def test_segments_change_what_a_base_that_knows_them_says_and_no_other(base: Path, tmp_path: Path) -> None:
    model, batch = make_model(base, TASK.name), pair_rows(tmp_path / "rows", base).batch([0, 1])
    told = model(*batch.inputs)
    assert model.segmented
    assert not told.allclose(model(batch.input_ids, batch.attention_mask), atol=1e-4)
    model.encoder.config.type_vocab_size = 1  # as RoBERTa's
    assert model(*batch.inputs).equal(model(batch.input_ids, batch.attention_mask))


def test_a_row_lies_where_its_first_text_lies_and_is_told_from_others_by_all_it_holds() -> None:
    row = RawRow(line=2, values={"text": "film", "second": "book", "label": "yes"})
    found = TASK.read(Cells(row=row, labels=("no", "yes")), DATA)
    assert (found.text, found.label, found.content) == ("film", 1, ["film", "book", "yes"])
    assert TASK.whole(found) == "film\nbook"


def test_a_pair_without_its_second_text_is_refused() -> None:
    row = RawRow(line=2, values={"text": "film", "second": " ", "label": "yes"})
    with pytest.raises(BadRow, match="'second' is empty"):
        TASK.read(Cells(row=row, labels=("no", "yes")), DATA)


@pytest.mark.parametrize(("task", "data"), [("pair-classification", Data()), ("text-classification", DATA)])
def test_the_column_of_the_second_text_is_named_where_there_are_pairs_and_nowhere_else(task: str, data: Data) -> None:
    with pytest.raises(ExperimentError, match=r"data\.text_pair is out of bounds"):
        Experiment(model=Model(task=task), data=data)
