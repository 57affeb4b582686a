"""The statistics of comparisons against scipy's own, against slow twins, and against numbers worked by hand."""

import math
import random
from itertools import product
from statistics import mean

import pytest
from reference import holm_by_definition, power_by_drawing
from scipy import stats

from fedrelease.simulations.compare.statistics import (
    cluster_interval,
    hedges_g,
    holm,
    mean_interval,
    paired_test,
    seeds_needed,
)

NUMBERS = random.Random(4)
PAIRS = [
    ([NUMBERS.gauss(0.8, 0.02) for _ in range(count)], [NUMBERS.gauss(0.79, 0.02) for _ in range(count)])
    for count in (3, 4, 7, 20)
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_paired_test_is_scipys(first: list[float], second: list[float]) -> None:
    found, theirs = paired_test(first, second), stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    assert found.difference == pytest.approx(mean(first) - mean(second))


def test_a_paired_test_worked_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, t = 2 / (1 / sqrt 3) = 3.4641 at 2 degrees: p = 1 - t / sqrt(2 + t^2) = 0.0742."""
    found = paired_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.seeds, found.difference) == (3, 2.0)
    assert found.p_value == pytest.approx(1 - math.sqrt(12) / math.sqrt(14))
    # t(0.975, 2) = 4.3027: 2 -+ 4.3027 / sqrt 3
    assert found.interval == pytest.approx((-0.4841, 4.4841), abs=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_give_a_difference_and_nothing_that_looks_like_certainty(count: int) -> None:
    found = paired_test([0.9, 0.8][:count], [0.5, 0.5][:count])
    assert found.difference > 0
    assert (found.interval, found.p_value, found.effect) == (None, None, None)
    assert mean_interval([0.5, 0.9][:count]) is None


def test_equal_differences_are_no_proof_and_no_difference_is_none() -> None:
    """Three equal differences: of the 8 ways to flip their signs 2 are as far out, p = 0.25."""
    assert paired_test([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]).p_value == 0.25
    assert paired_test([0.3, 0.4, 0.5], [0.3, 0.4, 0.5]).p_value == 1.0


def test_holms_correction_of_a_known_example() -> None:
    """0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.04 x 1 = 0.04, but not below 0.06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([]) == ()
    assert holm([0.7, 0.9]) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_holms_correction_is_that_of_its_definition(seed: int) -> None:
    numbers = random.Random(seed)
    given = [round(numbers.random() ** 3, 2) for _ in range(numbers.randint(1, 9))]
    assert holm(given) == pytest.approx(holm_by_definition(given))


def test_an_effect_is_the_mean_over_the_spread_corrected_for_few_seeds() -> None:
    """Differences 1, 2, 3: d = 2 and, with 2 degrees, J = gamma(1) / (sqrt(1) gamma(1/2)) = 1 / sqrt(pi)."""
    assert hedges_g([1.0, 2.0, 3.0]) == pytest.approx(2 / math.sqrt(math.pi))
    # with 20 degrees the usual approximation 1 - 3 / (4 m - 1) is right to four digits
    many = [float(number) for number in range(21)]
    assert hedges_g(many) == pytest.approx(10 / stats.tstd(many) * (1 - 3 / 79), rel=1e-3)
    assert hedges_g([0.1, 0.1, 0.1]) is None


def test_a_clustered_interval_is_that_of_all_ways_to_draw_whole_seeds() -> None:
    clusters = [[0.1, 0.3], [0.2], [0.9, 0.7, 0.8], [0.4, 0.5]]
    means = []
    for drawn in product(clusters, repeat=4):
        values = [value for cluster in drawn for value in cluster]
        means.append(sum(values) / len(values))
    low, high = cluster_interval(clusters) or (0.0, 0.0)
    for end, share in ((low, 0.025), (high, 0.975)):
        below = mean(value < end - 1e-9 for value in means)
        at_most = mean(value <= end + 1e-9 for value in means)
        assert below - 0.01 <= share <= at_most + 0.01
    assert cluster_interval(clusters) == (low, high)
    assert cluster_interval(clusters[:2]) is None


def test_sites_of_one_seed_do_not_count_as_independent() -> None:
    """Fifty sites that agree within each seed tell no more than one site would."""
    one, fifty = cluster_interval([[0.1], [0.2], [0.6]]), cluster_interval([[0.1] * 50, [0.2] * 50, [0.6] * 50])
    assert one == pytest.approx(fifty)


def test_the_number_of_seeds_is_the_least_that_shows_the_difference_often_enough() -> None:
    differences = [0.01, 0.03, 0.02, 0.00]  # d = 0.015 / 0.0129 = 1.162
    count = seeds_needed(differences, level=0.05)
    assert count is not None
    effect = mean(differences) / stats.tstd(differences)
    assert power_by_drawing(effect, count, level=0.05, draws=20_000) > 0.79
    assert power_by_drawing(effect, count - 1, level=0.05, draws=20_000) < 0.81
    stricter = seeds_needed(differences, level=0.05 / 10)
    assert stricter is not None and stricter > count


def test_a_difference_that_is_tiny_beside_its_spread_needs_more_seeds_than_anybody_runs() -> None:
    assert seeds_needed([0.1, -0.1, 0.001], level=0.05) is None
    assert seeds_needed([0.0, 0.0, 0.0], level=0.05) is None


def test_equal_differences_need_as_many_seeds_as_flipping_signs_does() -> None:
    """2^(1 - n) <= 0.05 from n = 6 on: 1/32 = 0.031."""
    assert seeds_needed([0.1, 0.1, 0.1], level=0.05) == 6
