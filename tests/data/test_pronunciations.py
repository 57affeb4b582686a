"""Words and their sounds, from lines of the dictionary's form."""

from itertools import chain
from pathlib import Path

import pytest

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.pronunciations import DICTIONARY, with_stress, without_stress
from fedrelease.data.sources import load_table
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Partition

LINES = """a AH0
a(2) EY1
a's EY1 Z
federal F EH1 D ER0 AH0 L # adjective
hospital HH AA1 S P IH2 T AH0 L
in-law IH1 N L AO2
3d TH R IY1 D IY2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / DICTIONARY).write_text(LINES)
    return tmp_path


def test_digits_of_stress_and_remarks_are_gone_and_the_line_is_kept(folder: Path) -> None:
    found = [(row.line, row.values) for row in without_stress(folder)]
    assert found == [(1, {"text": "a", "target": "AH"}), (4, {"text": "federal", "target": "F EH D ER AH L"})]


def test_the_other_words_keep_their_stress(folder: Path) -> None:
    found = [(row.line, row.values) for row in with_stress(folder)]
    assert found == [(5, {"text": "hospital", "target": "HH AA1 S P IH2 T AH0 L"})]


def test_every_word_of_letters_is_in_one_of_the_two_and_other_ways_to_say_it_in_none(tmp_path: Path) -> None:
    """Of 400 words about half are in either."""
    words = [chr(97 + number % 26) + chr(97 + number // 26) for number in range(400)]
    (tmp_path / DICTIONARY).write_text("".join(f"{word} AH0\n{word}(2) EY1\n" for word in words))
    first, second = ([row.values["text"] for row in read(tmp_path)] for read in (without_stress, with_stress))
    assert sorted(chain(first, second), key=str) == sorted(words)
    assert 160 < len(first) < 240


def test_a_word_without_sounds_is_a_fault_at_its_line(tmp_path: Path) -> None:
    (tmp_path / DICTIONARY).write_text("a AH0\nfederal\n")
    good, bad = without_stress(tmp_path)
    assert good.fault is None
    assert (bad.line, bad.fault) == (2, "the word 'federal' has no sounds")


def test_a_dictionary_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / DICTIONARY).write_bytes(b"a AH0\nb\xe9 B EY1\n")
    with pytest.raises(DataError, match=r"cmudict\.dict line 2 is not UTF-8"):
        next(without_stress(tmp_path))


def test_the_second_source_is_made_of_the_files_of_the_first_and_says_so_where_they_are_missing(tmp_path: Path) -> None:
    assert [BUILT_IN[name].fetched for name in ("cmudict", "cmudict-stress")] == [None, "cmudict"]
    data = Data(source="cmudict-stress", partition=Partition(by="iid"))
    with pytest.raises(DataError, match="^cmudict is not in the cache"):
        load_table(data, ("wrong", "right"), cache=tmp_path, task="seq2seq", fetch_missing=False)
