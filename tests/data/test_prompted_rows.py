"""Prompts and answers as rows: which tokens have a target, chat templates, and what is refused."""

from pathlib import Path

import pytest
from tiny import CHAT, WORDS, make_chat_base, make_language_base

from fedrelease.data.prompts import prompt_ids, tokenise_prompted
from fedrelease.data.tokens import IGNORED, Tokenizer, load_tokenizer
from fedrelease.errors import DataError, ExperimentError, ModelError
from fedrelease.experiment import Data, Experiment, Model
from fedrelease.models.bases import open_base

PAIR = ("the film was", "very good")
END = 3


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_language_base(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_chat_base(tmp_path_factory.mktemp("chat")))


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def test_only_the_answer_and_its_end_have_a_target_each_at_the_token_before(plain: Tokenizer) -> None:
    told = tokenise_prompted([PAIR], 1, plain, 16, chat=False)
    assert told["input_ids"].tolist() == [*ids("the film was very good"), END]
    assert told["targets"].tolist() == [IGNORED, IGNORED, *ids("very good"), END, IGNORED]
    assert told["labels"].tolist() == [1]


def test_a_row_is_cut_at_its_end_and_one_without_any_of_its_answer_is_refused(plain: Tokenizer) -> None:
    cut = tokenise_prompted([PAIR], 1, plain, 4, chat=False)
    assert cut["input_ids"].tolist() == ids("the film was very")
    assert cut["targets"].tolist() == [IGNORED, IGNORED, *ids("very"), IGNORED]
    long = (" ".join(["film"] * 5), "good")
    with pytest.raises(DataError, match="1 of 2 rows have no token of their answer"):
        tokenise_prompted([PAIR, long], 1, plain, 5, chat=False)


def test_with_a_chat_template_the_answer_is_the_assistants_turn_up_to_its_end(chat: Tokenizer) -> None:
    told = tokenise_prompted([PAIR], 1, chat, 32, chat=True)
    unknown = WORDS.index("[UNK]")  # the names of the roles are no words of the tiny base
    before = [unknown, *ids("the film was"), END, unknown]
    assert told["input_ids"].tolist() == [*before, *ids("very good"), END]
    assert told["targets"].tolist() == [IGNORED] * 5 + [*ids("very good"), END, IGNORED]


@pytest.mark.parametrize("turns", [False, True])
def test_what_is_asked_begins_as_the_rows_that_were_trained_on(plain: Tokenizer, chat: Tokenizer, turns: bool) -> None:
    tokenizer = chat if turns else plain
    row = tokenise_prompted([PAIR], 1, tokenizer, 32, chat=turns)
    asked = prompt_ids(PAIR[0], tokenizer, chat=turns)
    assert row["input_ids"].tolist()[: len(asked)] == asked
    assert (row["targets"][: len(asked) - 1] == IGNORED).all() and row["targets"][len(asked) - 1] != IGNORED


def test_templates_that_are_missing_dated_or_answer_otherwise_are_refused(plain: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no chat template"):
        prompt_ids("the film", plain, chat=True)
    dated = load_tokenizer(make_chat_base(tmp_path / "dated", "{{ strftime_now('%d') }}" + CHAT))
    with pytest.raises(ModelError, match="today's date"):
        prompt_ids("the film", dated, chat=True)
    odd = load_tokenizer(make_chat_base(tmp_path / "odd", "{{ messages | length }} " + CHAT))
    with pytest.raises(ModelError, match="cannot be used"):
        tokenise_prompted([PAIR], 1, odd, 32, chat=True)


def test_a_chat_template_is_one_of_the_files_that_a_base_is_known_by(tmp_path: Path) -> None:
    bases = [open_base(str(make_chat_base(tmp_path / name, text)), cache=tmp_path) for name, text in TEMPLATES.items()]
    assert bases[0].digest != bases[1].digest and bases[0].tokenizer_digest != bases[1].tokenizer_digest


TEMPLATES = {"one": CHAT, "other": CHAT.replace("assistant", "answer")}


def test_keys_that_do_not_go_together_are_refused_by_name() -> None:
    with pytest.raises(ExperimentError, match=r"data\.chat"):
        Data(chat=True)
    with pytest.raises(ExperimentError, match=r"data\.words_per_text"):
        Data(prompt="question", words_per_text=4)
    with pytest.raises(ExperimentError, match=r"data\.prompt"):
        Experiment(data=Data(prompt="question"))
    assert Experiment(model=Model(task="causal-lm"), data=Data(prompt="question", chat=True)).data.chat
