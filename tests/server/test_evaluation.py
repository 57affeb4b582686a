from fake_sites import MATRIX

from fedrelease.messages import Answer
from fedrelease.server.evaluation import site_metrics

LABELS = ("negative", "positive")
GOOD = ((4.0, 0.0), (0.0, 4.0))
BAD = ((1.0, 3.0), (3.0, 1.0))


def told(site: str, matrix: tuple[tuple[float, ...], ...] | None, loss: float | None = None) -> Answer:
    return Answer(site=site, metrics={}, confusion=matrix, loss=loss)


def test_mean_and_worst_are_over_sites_and_the_worst_site_has_the_lowest_accuracy() -> None:
    metrics, _ = site_metrics({"a": told("a", GOOD, 0.25), "b": told("b", BAD, 0.75)}, labels=LABELS, server={})
    assert metrics.mean == {"accuracy": 0.625, "macro_f1": 0.625, "loss": 0.5}  # (8/8 + 2/8) / 2; F1 likewise
    assert metrics.worst == {"accuracy": 0.25, "macro_f1": 0.25, "loss": 0.75}
    assert metrics.worst_site == "b"
    assert metrics.sites["a"] == {"accuracy": 1.0, "macro_f1": 1.0, "examples": 8.0, "loss": 0.25}


def test_one_site_counts_as_much_as_another_whatever_its_size() -> None:
    large = tuple(tuple(100 * cell for cell in row) for row in GOOD)
    metrics, _ = site_metrics({"a": told("a", large), "b": told("b", BAD)}, labels=LABELS, server={})
    assert metrics.mean["accuracy"] == 0.625


def test_a_metric_that_one_site_keeps_to_itself_has_no_mean() -> None:
    metrics, _ = site_metrics({"a": told("a", GOOD, 0.25), "b": told("b", BAD)}, labels=LABELS, server={})
    assert metrics.mean.keys() == {"accuracy", "macro_f1"}


def test_a_site_that_tells_nothing_is_left_out_and_the_first_name_breaks_a_tie() -> None:
    answers = {"c": told("c", BAD), "b": told("b", BAD), "a": told("a", None)}
    metrics, report = site_metrics(answers, labels=LABELS, server={"accuracy": 0.5})
    assert metrics.sites.keys() == report.keys() == {"b", "c"}
    assert metrics.worst_site == "b"
    assert metrics.server == {"accuracy": 0.5}


def test_without_any_site_only_the_server_speaks() -> None:
    metrics, report = site_metrics({}, labels=LABELS, server={"accuracy": 0.5})
    assert (metrics.mean, metrics.worst, metrics.worst_site, report) == ({}, {}, None, {})
    assert metrics.server == {"accuracy": 0.5}


def test_noise_that_leaves_no_count_above_zero_leaves_no_metric() -> None:
    answers = {"a": told("a", ((-1.0, 0.0), (-2.0, 0.0))), "b": told("b", MATRIX)}
    metrics, _ = site_metrics(answers, labels=LABELS, server={})
    assert metrics.sites.keys() == {"b"}
    assert metrics.mean["accuracy"] == 0.7  # (3 + 4) / 10


def test_the_report_has_each_label_of_each_site() -> None:
    _, report = site_metrics({"a": told("a", MATRIX)}, labels=LABELS, server={})
    assert report["a"]["negative"] == {"precision": 0.6, "recall": 0.75, "f1": 0.666667, "support": 4.0}
    assert report["a"]["positive"]["recall"] == 0.666667  # 4 of 6


def test_what_sites_see_with_their_own_part_in_place_stands_beside_what_they_see_of_the_release() -> None:
    answers = {
        site: Answer(site=site, metrics={"accuracy_private": value, "other": 1.0}, confusion=matrix)
        for site, matrix, value in (("a", GOOD, 0.75), ("b", BAD, 0.5))
    }
    metrics, _ = site_metrics(answers, labels=LABELS, server={})
    assert metrics.mean == {"accuracy": 0.625, "accuracy_private": 0.625, "macro_f1": 0.625}
    assert (metrics.worst["accuracy_private"], metrics.worst_site) == (0.5, "b")
    assert metrics.sites["b"] == {"accuracy": 0.25, "accuracy_private": 0.5, "macro_f1": 0.25, "examples": 8.0}
