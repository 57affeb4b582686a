"""Built-in sources that are made of the files of another one."""

from pathlib import Path

import pytest

from fedrelease.data.builtin import BUILT_IN
from fedrelease.data.sources import load_table, source_digest
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Partition

FILES = ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets")


def values(source: str, folder: Path) -> list[dict[str, object]]:
    return [dict(row.values) for row in BUILT_IN[source].read(folder)]


def test_ratings_are_those_that_four_sites_makes_labels_from_and_the_ones_near_zero_too(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / f"{name}_GroundTruth.txt").write_text("id\tsentiment\ttext\n1\t-2.5\tbad\n2\t0.1\tso so\n")
    found = values("four-sites-ratings", tmp_path)
    assert found[:2] == [
        {"text": "bad", "rating": "-2.5", "site": "amazon"},
        {"text": "so so", "rating": "0.1", "site": "amazon"},
    ]
    assert len(found) == 8
    assert values("four-sites", tmp_path)[0] == {"text": "bad", "label": "negative", "site": "amazon"}


def test_types_of_a_tweet_are_those_of_its_words_each_once(tmp_path: Path) -> None:
    tweets = "Ada\tB-person\nand\tO\nBob\tB-person\nin\tO\nNew\tB-geo-loc\nYork\tI-geo-loc\n\nhello\tO\n"
    (tmp_path / "ner.txt").write_text(tweets)
    assert values("wnut-types", tmp_path) == [
        {"text": "Ada and Bob in New York", "label": ["geo-loc", "person"]},
        {"text": "hello", "label": []},
    ]
    assert len(BUILT_IN["wnut-types"].labels) == 10


def test_each_question_is_asked_once_with_its_own_kind_or_with_another_one(tmp_path: Path) -> None:
    """Of 60 questions about places, about half come with words for a place, and those are labelled yes."""
    lines = [f"LOC:city Where is number {number} ?" for number in range(60)]
    (tmp_path / "question_labels.txt").write_text("\n".join([*lines, lines[0]]))
    found = values("trec-pairs", tmp_path)
    assert len(found) == 60
    assert all((row["kind"] == "a place") == (row["label"] == "yes") for row in found)
    assert 20 < sum(row["label"] == "yes" for row in found) < 40
    assert len({row["kind"] for row in found}) == 6
    assert found == values("trec-pairs", tmp_path)


@pytest.mark.parametrize("source", sorted(name for name in BUILT_IN if BUILT_IN[name].fetched))
def test_a_source_is_told_from_the_one_whose_files_it_has(source: str) -> None:
    fetched = BUILT_IN[source].fetched
    assert fetched is not None
    assert source_digest(source) != source_digest(fetched)


def test_who_takes_ratings_for_labels_is_told_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_table(
            Data(source="four-sites-ratings", partition=Partition(by="iid")), ("negative", "positive"), cache=tmp_path
        )
    assert caught.value.hint == 'set [model] task = "regression"'
