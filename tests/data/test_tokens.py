"""Token rows: what goes into the file comes out of it, padded batch by batch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from site_tokenizer import WORDS, save_tokenizer

from fedrelease.data.tokens import Tokenizer, TokenRows, load_tokenizer, save_rows, tokenise
from fedrelease.errors import DataError, ExperimentError, ModelError

TEXTS = ["good film", "bad", "good good good bad", "film"]  # 4, 3, 6 and 3 tokens with [CLS] and [SEP]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(save_tokenizer(tmp_path_factory.mktemp("base")))


@pytest.fixture
def rows(tmp_path: Path, tokenizer: Tokenizer) -> TokenRows:
    save_rows(tmp_path / "site" / "train.safetensors", tokenise(TEXTS, [1, 0, 1, 0], tokenizer, 16))
    return TokenRows(tmp_path / "site" / "train.safetensors")


def ids(*words: str) -> list[int]:
    return [WORDS[word] for word in words]


def test_lengths_and_labels_are_those_of_the_texts(rows: TokenRows) -> None:
    assert len(rows) == 4
    assert rows.lengths.tolist() == [4, 3, 6, 3]
    assert rows.labels.tolist() == [1, 0, 1, 0]


def test_a_batch_is_padded_to_its_longest_row_and_keeps_the_order_asked_for(rows: TokenRows) -> None:
    batch = rows.batch([1, 0])
    assert batch.input_ids.tolist() == [ids("[CLS]", "bad", "[SEP]", "[PAD]"), ids("[CLS]", "good", "film", "[SEP]")]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [0, 1]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.attention_mask, batch.labels)} == {torch.int64}


def test_a_batch_may_repeat_rows_and_be_asked_for_by_a_tensor(rows: TokenRows) -> None:
    assert rows.batch(torch.tensor([3, 3])).labels.tolist() == [0, 0]


def test_a_batch_without_rows_has_shapes_that_a_model_accepts(rows: TokenRows) -> None:
    batch = rows.batch([])
    assert batch.input_ids.shape == batch.attention_mask.shape == (0, 1)
    assert batch.labels.shape == (0,)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_row_that_does_not_exist_is_refused(rows: TokenRows, index: int) -> None:
    with pytest.raises(IndexError, match="between 0 and 3"):
        rows.batch([0, index])


def test_texts_are_cut_at_max_length(tokenizer: Tokenizer) -> None:
    tensors = tokenise(["good " * 50], [0], tokenizer, 8)
    assert tensors["offsets"].tolist() == [0, 8]
    assert tensors["input_ids"].dtype == torch.int32


def test_a_max_length_beyond_the_bases_limit_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ExperimentError, match="at most the base's own limit, 64"):
        tokenise(TEXTS, [0] * 4, tokenizer, 65)


def test_rows_of_many_chunks_are_the_rows_of_one(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenise(TEXTS, [0] * 4, tokenizer, 16)
    monkeypatch.setattr("fedrelease.data.tokens._CHUNK", 3)
    pieces = tokenise(TEXTS, [0] * 4, tokenizer, 16)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_the_same_rows_have_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name in ("a", "b"):
        save_rows(tmp_path / name, tokenise(TEXTS, [0] * 4, tokenizer, 16))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_opening_a_file_does_not_read_its_tokens_into_memory(tmp_path: Path) -> None:
    import psutil

    count = 64 * 2**20 // 4  # 64 MiB of int32
    tensors = {"input_ids": torch.zeros(count, dtype=torch.int32), "offsets": torch.tensor([0, 4, count])}
    save_rows(tmp_path / "big", {**tensors, "labels": torch.tensor([0, 1]), "pad_id": torch.tensor(0)})
    del tensors
    before = psutil.Process().memory_info().rss
    rows = TokenRows(tmp_path / "big")
    assert rows.batch([0]).input_ids.shape == (1, 4)
    assert psutil.Process().memory_info().rss - before < 16 * 2**20


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_a_file_that_is_missing_torn_or_foreign_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "train.safetensors"
    if damage == "foreign":
        save_file({"weights": torch.zeros(2)}, path)
    elif damage == "torn":
        path.write_bytes(b"\x00" * 4)
    with pytest.raises(DataError, match="cannot be read"):
        TokenRows(path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer loads"):
        load_tokenizer(tmp_path)
