"""Names of very many sites."""

import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrelease.population import Population, site_name


def test_names_sort_as_their_numbers_do() -> None:
    names = Population(1001)
    assert (names[0], names[12], names[-1]) == ("site-0000", "site-0012", "site-1000")
    assert list(names) == sorted(names) and len(list(names)) == len(names) == 1001
    assert names[2:4] == ("site-0002", "site-0003")
    assert list(Population(2)) == ["site-00", "site-01"]


def test_it_knows_its_own_names_and_no_others() -> None:
    names = Population(1000)
    assert "site-999" in names and names.index("site-042") == 42
    for other in ("site-42", "site-1000", "site-0042", "site-", "site--01", "site-٣٣٣", "42", "", None, 42):
        assert other not in names
    with pytest.raises(ValueError, match="no site's name"):
        names.index("site-42")
    with pytest.raises(IndexError):
        names[1000]


@given(st.integers(1, 400), st.data(), st.text(max_size=5))
def test_a_draw_has_as_many_different_names_as_asked_and_repeats(sites: int, data: st.DataObject, key: str) -> None:
    count, names = data.draw(st.integers(0, sites)), Population(sites)
    drawn = names.draw(count, key=key)
    assert len(set(drawn)) == len(drawn) == count
    assert list(drawn) == sorted(drawn) and all(name in names for name in drawn)
    assert drawn == Population(sites).draw(count, key=key)


def test_more_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="4 of 3"):
        Population(3).draw(4, key="")


def test_every_site_is_drawn_about_as_often() -> None:
    """2,000 draws of 3 of 10: 600 each; a deviation is sqrt(2000 * 0.3 * 0.7) = 20.5, and five of them are 103."""
    counts = Counter(name for number in range(2000) for name in Population(10).draw(3, key=str(number)))
    assert all(abs(counts[site_name(number, 10)] - 600) < 103 for number in range(10))


def test_a_draw_from_a_billion_makes_no_billion_names() -> None:
    tracemalloc.start()
    begun = time.process_time()
    drawn = Population(10**9).draw(100, key="round 1")
    assert len(drawn) == 100
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    assert time.process_time() - begun < 30  # looking at each name would take an hour
    tracemalloc.stop()
