"""The statistics of the gates against slow twins, published numbers, and a full enumeration of their errors."""

import math

import numpy as np
import pytest
import reference
from pytest import approx
from scipy import stats

from fedrelease.server.gates import exact
from fedrelease.server.gates.bootstrap import bca_bounds, median_ratio
from fedrelease.server.gates.exact import exact_bounds, exact_critical, exact_p_value
from fedrelease.server.gates.score import score, scores
from fedrelease.server.gates.statistics import (
    clopper_pearson,
    compare,
    mcnemar_p,
    n_needed,
    n_share,
    tango_interval,
)


def every_outcome(n: int) -> tuple[np.ndarray, np.ndarray]:
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    return b[b + c <= n], c[b + c <= n]


def chances(n: int, wrong: float, right: float) -> np.ndarray:
    b, c = every_outcome(n)
    return np.asarray(stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [wrong, right, 1 - wrong - right]))


@pytest.mark.parametrize("counts", [(7, 3, 100), (0, 4, 60), (12, 0, 80), (20, 25, 400)])
@pytest.mark.parametrize("difference", [-0.05, -0.02, 0.03])
def test_the_score_is_that_of_the_likeliest_shares_found_by_trying(
    counts: tuple[int, int, int], difference: float
) -> None:
    assert score(*counts, difference) == approx(reference.score_by_search(*counts, difference), abs=2e-3)


def test_at_no_difference_the_score_is_mcnemars() -> None:
    """(c - b) / sqrt(b + c) = (16 - 9) / 5."""
    assert score(9, 16, 1000, 0.0) == approx(1.4)


def test_tangos_interval_holds_exactly_the_differences_that_the_score_does_not_reject() -> None:
    low, high = tango_interval(10, 3, 100, 0.025)
    z = stats.norm.isf(0.025)
    kept = [at / 5000 for at in range(-1500, 1501) if abs(score(10, 3, 100, at / 5000)) <= z]
    assert (low, high) == (approx(min(kept), abs=2e-4), approx(max(kept), abs=2e-4))


def test_without_a_discordant_item_the_interval_is_z2_over_n_plus_z2() -> None:
    """Nothing changed: q = D, so the score is sqrt(n D / (1 - D)), and z^2 = n D / (1 - D) gives D = z^2 / (n + z^2)."""
    z = stats.norm.isf(0.05)
    assert tango_interval(0, 0, 50, 0.05) == approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)))


def test_where_all_items_turn_one_way_the_interval_ends_at_one() -> None:
    assert tango_interval(50, 0, 50, 0.05)[0] == -1.0
    assert tango_interval(0, 50, 50, 0.05)[1] == 1.0


@pytest.mark.parametrize("difference", [-0.3, -0.02, 0.0, 0.02, 0.3])
@pytest.mark.parametrize("n", [4, 25, 90])
def test_scores_rise_with_c_and_fall_with_b(n: int, difference: float) -> None:
    """What the exact test's tails, and its worst case on the border of the hypothesis, rest on."""
    for fixed in range(n):
        free = np.arange(n - fixed + 1)
        assert (np.diff(scores(np.full_like(free, fixed), free, n, difference)) >= -1e-9).all()
        assert (np.diff(scores(free, np.full_like(free, fixed), n, difference)) <= 1e-9).all()


@pytest.mark.parametrize("counts", [(0, 0, 12), (1, 3, 12), (3, 1, 15), (0, 5, 18)])
@pytest.mark.parametrize("margin", [0.1, 0.02, -0.1])
def test_the_exact_p_value_is_the_largest_chance_of_the_tail_outcome_by_outcome(
    counts: tuple[int, int, int], margin: float
) -> None:
    assert exact_p_value(*counts, margin=margin) == approx(
        reference.exact_p_by_enumeration(*counts, margin=margin), abs=1e-3
    )


@pytest.mark.parametrize(("n", "margin"), [(30, 0.05), (80, 0.02), (200, 0.01), (200, 0.02), (299, 0.02)])
def test_below_300_items_a_model_worse_by_the_margin_passes_with_at_most_alpha_whatever_else_is_true(
    n: int, margin: float
) -> None:
    """The real error, enumerated: all outcomes, at shares of discordant items that the test's own grid does not hold."""
    critical = exact_critical(n, margin=margin, alpha=0.05)
    b, c = every_outcome(n)
    passed = scores(b, c, n, -margin) >= critical
    for share in np.linspace(0, (1 - margin) / 2, 83):
        wrong, right = share + margin, float(share)
        assert chances(n, wrong, right)[passed].sum() <= 0.05


@pytest.mark.parametrize("worse", [0.03, 0.06, 0.12])
def test_a_model_worse_by_more_than_the_margin_passes_more_rarely_still(worse: float) -> None:
    n, margin = 80, 0.02
    b, c = every_outcome(n)
    passed = scores(b, c, n, -margin) >= exact_critical(n, margin=margin, alpha=0.05)
    assert max(chances(n, share + worse, float(share))[passed].sum() for share in np.linspace(0, 0.4, 41)) < 0.05


def test_the_score_test_alone_would_break_its_level_on_few_items() -> None:
    """Why there is an exact test: at 80 items the normal distribution lets a model worse by 2 points pass too often."""
    b, c = every_outcome(80)
    passed = scores(b, c, 80, -0.02) > stats.norm.isf(0.05)
    real = max(chances(80, share + 0.02, float(share))[passed].sum() for share in np.linspace(0, 0.49, 99))
    assert real > 0.05


@pytest.mark.parametrize("counts", [(2, 5, 60), (4, 0, 90), (0, 1, 150), (0, 0, 20)])
def test_the_border_and_the_p_value_say_the_same_of_every_outcome(counts: tuple[int, int, int]) -> None:
    critical = exact_critical(counts[2], margin=0.02, alpha=0.05)
    assert (score(*counts, -0.02) >= critical) == (exact_p_value(*counts, margin=0.02) <= 0.05)


@pytest.mark.parametrize("counts", [(1, 3, 140), (3, 1, 140), (20, 2, 140), (0, 0, 140)])
def test_the_exact_bounds_agree_with_the_exact_test_at_the_margin(counts: tuple[int, int, int]) -> None:
    low, high = exact_bounds(*counts, alpha=0.05, margin=0.02)
    b, c, n = counts
    assert low <= (c - b) / n <= high
    assert (low > -0.02) == (exact_p_value(b, c, n, margin=0.02) <= 0.05)
    assert (high < -0.02) == (exact_p_value(c, b, n, margin=-0.02) <= 0.05)


def test_from_300_items_on_the_score_decides_and_exact_bounds_are_about_the_same() -> None:
    assert compare(4, 5, 299, margin=0.02, alpha=0.05).method == "exact"
    assert compare(4, 5, 300, margin=0.02, alpha=0.05).method == "tango"
    assert exact_bounds(4, 5, 299, alpha=0.05, margin=0.02) == approx(tango_interval(4, 5, 299, 0.05), abs=3e-3)


def test_a_comparison_passes_fails_or_stays_open_by_its_bounds() -> None:
    equal, worse, open_ = (compare(b, c, 1000, margin=0.02, alpha=0.05) for b, c in ((20, 20), (80, 10), (40, 25)))
    assert (equal.state, worse.state, open_.state) == ("pass", "fail", "inconclusive")
    assert equal.low > -0.02 and worse.high < -0.02 and open_.low < -0.02 < open_.high
    assert (equal.needed, worse.needed) == (None, None) and open_.needed is not None


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (9, 3), (5, 5), (0, 12)])
def test_mcnemars_p_is_the_binomial_tests(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_p(b, c) == approx(expected)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (20, 20)])
def test_bounds_of_a_share_leave_alpha_beyond_each(hits: int, n: int) -> None:
    low, high = clopper_pearson(hits, n, 0.05)
    assert low == 0 if hits == 0 else stats.binom.sf(hits - 1, n, low) == approx(0.05)
    assert high == 1 if hits == n else stats.binom.cdf(hits, n, high) == approx(0.05)


def test_the_items_needed_are_those_of_the_formula_worked_by_hand() -> None:
    """(1.64485 + 0.84162)^2 = 6.18256; times 0.05 / 0.01^2 = 3091.3, and a quarter of it for two points."""
    assert (n_needed(0.05, 0.01), n_needed(0.05, 0.02)) == (3092, 773)
    assert n_needed(0.05, 0.02, -0.02) is None
    assert n_needed(0.05, 0.02, -0.01) == math.ceil(6.18256 * (0.05 - 0.0001) / 0.0001)


def test_with_the_items_needed_four_in_five_equal_models_pass() -> None:
    generator, n = np.random.default_rng(0), n_needed(0.05, 0.02)
    assert n is not None
    drawn = generator.multinomial(n, [0.025, 0.025, 0.95], size=2000)
    passed = np.mean([score(int(b), int(c), n, -0.02) > stats.norm.isf(0.05) for b, c, _ in drawn])
    assert passed == approx(0.8, abs=0.03)


def test_an_undecided_comparison_always_asks_for_more_items_than_it_had() -> None:
    undecided = [
        (n, found.needed)
        for n in (310, 1000, 5000)
        for b in range(0, 60, 7)
        for c in range(0, 60, 7)
        if (found := compare(b, c, n, margin=0.02, alpha=0.05)).state == "inconclusive"
    ]
    assert undecided and all(needed is None or needed > n for n, needed in undecided)
    assert sum(needed is None for _, needed in undecided) <= len(undecided) // 10


def test_a_share_as_large_as_its_limit_is_never_told_from_it() -> None:
    assert n_share(0.05, 0.05, 100) is None
    assert n_share(0.05, 0.051, 100) > 10_000  # type: ignore[operator]


def skewed(n: int) -> np.ndarray:
    return np.random.default_rng(3).exponential(size=n)


def test_bca_bounds_are_scipys_when_every_item_is_a_cluster() -> None:
    values = skewed(40)
    mean, low, high = bca_bounds(values, np.arange(40), alpha=0.05, draws=20_000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=2)
    assert mean == approx(values.mean())
    assert (low, high) == approx(tuple(theirs.confidence_interval), abs=0.02)


def test_clusters_are_drawn_whole_as_a_plain_loop_does() -> None:
    """Symmetric clusters, so that bias and acceleration are near 0 and BCa is the percentile interval."""
    clusters = [[level + 0.01 * item for item in range(10)] for level in np.linspace(-1, 1, 15)]
    flat, code = np.array([number for one in clusters for number in one]), np.repeat(np.arange(15), 10)
    _, low, high = bca_bounds(flat, code, alpha=0.05, draws=10_000, seed=1)
    assert (low, high) == approx(reference.percentile_by_loop(clusters, alpha=0.05, draws=4000), abs=0.03)
    _, narrow, wide = bca_bounds(flat, np.arange(150), alpha=0.05, draws=2000, seed=1)
    assert wide - narrow < (high - low) / 2, (
        "items of one site are alike: as if they were independent would be too narrow"
    )


def test_bootstrap_bounds_repeat_bit_for_bit_and_follow_the_seed() -> None:
    values = skewed(50)
    first, again, other = (bca_bounds(values, np.arange(50), alpha=0.05, draws=500, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_differences_without_spread_have_bounds_without_width() -> None:
    assert bca_bounds(np.full(30, 0.25), np.arange(30), alpha=0.05, draws=500, seed=0) == (0.25, 0.25, 0.25)
    assert bca_bounds(np.arange(4.0), np.zeros(4), alpha=0.05, draws=500, seed=0) == (1.5, 1.5, 1.5)


def test_the_ratio_of_medians_holds_the_truth_and_ignores_what_slows_down_both() -> None:
    """The second half of the run takes three times as long for both; the ratio stays 1.1."""
    generator, drift = np.random.default_rng(0), np.repeat([1.0, 3.0], 100)
    other = drift * generator.normal(1, 0.02, 200)
    ratio, low, high = median_ratio(1.1 * other * generator.normal(1, 0.01, 200), other, alpha=0.05, draws=1000, seed=0)
    assert low < 1.1 < high and ratio == approx(1.1, abs=0.03)


def test_the_grid_of_the_exact_test_finds_the_peak_that_a_hundred_times_finer_one_finds() -> None:
    first = exact._first(120, -0.02, score(1, 4, 120, -0.02))
    fine = exact._tail(first, 120, 0.02, np.linspace(0, 0.49, 12_000))
    assert exact_p_value(1, 4, 120, margin=0.02) == approx(float(fine.max()), abs=1.1e-5)
