"""Partitions: every row exactly once, the same in every process, and no site without rows."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrelease.data.partition import LEAST_ROWS, partition, site_names
from fedrelease.errors import DataError
from fedrelease.experiment import Partition

LABELS = [row % 3 for row in range(300)]
RULES = ["dirichlet", "iid", "quantity", "shards"]


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    by=st.sampled_from(RULES),
    sites=st.integers(1, 12),
    alpha=st.sampled_from([1e-300, 0.01, 0.5, 10.0, 1e6]),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_row_is_in_exactly_one_site_or_the_cut_is_refused(
    labels: list[int], by: str, sites: int, alpha: float, shards: int, seed: int
) -> None:
    spec = Partition(by=by, sites=sites, alpha=alpha, shards=shards)
    try:
        cut = partition(labels, None, spec, seed=seed)
    except DataError as error:
        assert error.hint
        return
    assert sorted(row for rows in cut.values() for row in rows) == list(range(len(labels)))
    assert list(cut) == [f"site-{number:02d}" for number in range(sites)]
    assert all(len(rows) >= LEAST_ROWS and rows == sorted(rows) for rows in cut.values())
    assert cut == partition(labels, None, spec, seed=seed)


@given(values=st.lists(st.text(min_size=1, max_size=70), min_size=1, max_size=30))
def test_by_column_every_value_is_one_site_with_a_safe_name(values: list[str]) -> None:
    doubled = values + values
    cut = partition([0] * len(doubled), doubled, Partition(by="column"), seed=0)
    assert sorted(row for rows in cut.values() for row in rows) == list(range(len(doubled)))
    assert len(cut) == len(set(values))
    assert all({values[row % len(values)] for row in rows} == {doubled[rows[0]]} for rows in cut.values())
    assert all(name.replace("-", "").isalnum() and name.isascii() and len(name) <= 71 for name in cut)


def test_names_come_from_the_values_and_do_not_depend_on_their_order() -> None:
    assert site_names(["St. Mary's", "nyt"]) == {"St. Mary's": "st-mary-s", "nyt": "nyt"}
    assert site_names(["NYT", "nyt", "../etc"]) == site_names(["../etc", "nyt", "NYT"])


def test_values_that_would_share_a_name_or_have_none_get_a_digest() -> None:
    names = site_names(["NYT", "nyt", "病院", "医院"])
    assert len(set(names.values())) == 4
    assert names["NYT"].startswith("nyt-")
    assert names["病院"].startswith("site-")


@pytest.mark.parametrize("by", RULES)
def test_another_seed_gives_another_cut(by: str) -> None:
    spec = Partition(by=by, sites=4, alpha=5.0)
    assert partition(LABELS, None, spec, seed=1) != partition(LABELS, None, spec, seed=2)


def test_a_cut_is_the_same_in_another_process() -> None:
    code = (
        "from fedrelease.data.partition import partition; from fedrelease.experiment import Partition;"
        "print(partition([r % 3 for r in range(300)], None, Partition(by='dirichlet', sites=4, alpha=5.0), seed=3))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "99"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(partition(LABELS, None, Partition(by="dirichlet", sites=4, alpha=5.0), seed=3))


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = {len(rows) for rows in partition(LABELS, None, Partition(by="iid", sites=7), seed=0).values()}
    assert sizes == {42, 43}  # 300 = 6 * 43 + 42


def test_two_shards_a_site_hold_at_most_four_labels_and_one_shard_at_most_two() -> None:
    labels = [row // 100 for row in range(1000)]  # 10 labels, 100 rows each
    cut = partition(labels, None, Partition(by="shards", sites=20, shards=1), seed=0)
    assert max(len({labels[row] for row in rows}) for rows in cut.values()) == 1  # 20 pieces of 50 fit into 10 blocks
    cut = partition(labels, None, Partition(by="shards", sites=15, shards=2), seed=0)
    assert max(len({labels[row] for row in rows}) for rows in cut.values()) <= 4


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    labels = [row % 2 for row in range(4000)]

    def spread(alpha: float) -> float:
        cut = partition(labels, None, Partition(by="dirichlet", sites=4, alpha=alpha), seed=5)
        shares = [sum(labels[row] for row in rows) / len(rows) for rows in cut.values()]
        return max(shares) - min(shares)

    assert spread(0.3) > 0.3
    assert spread(1000.0) < 0.1


def test_quantity_skews_sizes_and_keeps_labels_mixed() -> None:
    labels = [row % 2 for row in range(4000)]
    cut = partition(labels, None, Partition(by="quantity", sites=4, alpha=1.0), seed=5)
    sizes = sorted(len(rows) for rows in cut.values())
    assert sizes[-1] > 2 * sizes[0]
    largest = max(cut.values(), key=len)
    assert abs(sum(labels[row] for row in largest) / len(largest) - 0.5) < 0.1


def test_too_few_rows_are_refused_with_the_number_needed() -> None:
    with pytest.raises(DataError, match="7 rows are too few for 4 sites") as caught:
        partition([0] * 7, None, Partition(by="iid", sites=4), seed=0)
    assert caught.value.rule.startswith("8 rows are needed")


def test_a_hopeless_skew_is_refused_and_not_drawn_for_ever() -> None:
    with pytest.raises(DataError, match="no draw of 100") as caught:
        partition(LABELS, None, Partition(by="dirichlet", sites=50, alpha=1e-6), seed=0)
    assert "raise [data.partition] alpha" in caught.value.hint


def test_a_column_value_with_a_single_row_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="site c would have 1 row"):
        partition([0] * 5, ["a", "a", "b", "b", "C"], Partition(by="column"), seed=0)
