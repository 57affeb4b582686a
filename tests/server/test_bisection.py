"""The release that broke something."""

import math
from pathlib import Path

import pytest
from release_examples import make_store, publish_round

from fedrelease.errors import StoreError
from fedrelease.server.bisection import Found, bisect
from fedrelease.server.release import Release
from fedrelease.server.store import Store


def search(store: Store, first_bad: int, *, skip: tuple[int, ...] = (), good: str = "0.0.0", bad: str = "") -> Found:
    def check(release: Release) -> str:
        number = release.manifest.round
        return "skip" if number in skip else "bad" if number >= first_bad else "good"

    head = store.head()
    assert head is not None
    return bisect(store, good=good, bad=bad or head.version, check=check, watch=lambda tried: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The base and nine rounds."""
    return make_store(tmp_path_factory.mktemp("bisect") / "s", rounds=9)


@pytest.mark.parametrize("first_bad", range(1, 10))
def test_the_first_bad_release_is_found_wherever_it_lies_in_few_looks(store: Store, first_bad: int) -> None:
    found = search(store, first_bad)
    assert found.suspects == (f"0.1.{first_bad}",)
    assert found.before == (f"0.1.{first_bad - 1}" if first_bad > 1 else "0.0.0")
    assert len(found.tried) <= math.ceil(math.log2(9))


def test_each_answer_tells_how_many_looks_are_left(store: Store) -> None:
    """Eight releases lie between 0 and 9; 4 is looked at, which leaves 5 to 8, three looks; then 6, then 7."""
    tried = search(store, 8).tried
    assert [(one.version, one.verdict, one.left) for one in tried] == [
        ("0.1.4", "good", 3),
        ("0.1.6", "good", 2),
        ("0.1.7", "good", 1),
        ("0.1.8", "bad", 0),
    ]


def test_a_release_that_cannot_tell_is_passed_over(store: Store) -> None:
    found = search(store, 6, skip=(4, 5))
    assert found.suspects == ("0.1.4", "0.1.5", "0.1.6") and found.before == "0.1.3"
    assert search(store, 6, skip=(4,)).suspects == ("0.1.6",)


def test_neighbours_need_no_look(store: Store) -> None:
    found = search(store, 5, good="0.1.4", bad="0.1.5")
    assert (found.suspects, found.tried) == (("0.1.5",), ())


@pytest.mark.parametrize(("good", "bad"), [("0.1.5", "0.1.4"), ("0.1.4", "0.1.4")])
def test_a_bad_release_that_does_not_come_from_the_good_one_is_refused(store: Store, good: str, bad: str) -> None:
    with pytest.raises(StoreError, match="does not come from"):
        search(store, 3, good=good, bad=bad)


def test_held_releases_on_the_line_are_looked_at(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", rounds=1)
    with store.lock():
        publish_round(store, 2, verdict="held")
        publish_round(store, 3)
    assert search(store, 2).suspects == ("0.1.2",)
