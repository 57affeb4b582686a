"""The quality gate: what it passes, what it blocks, and where it does not know."""

import math
from dataclasses import replace

import numpy as np
import pytest
from examples import MANIFEST
from gate_examples import OTHER_SET, SET, STABLE, held, make_items, right, states, subject
from pytest import approx

from fedrelease.experiment_sections import FIXED_LABELS
from fedrelease.files import digest_bytes
from fedrelease.gate_rules import QualityRule
from fedrelease.server.gates.noised import spread
from fedrelease.server.gates.quality import quality
from fedrelease.server.gates.subject import SiteScores, Subject

RULE = QualityRule()
PARTS = {label: digest_bytes(label.encode()) for label in ("ham", "spam", "news")}


def compared(before: list[bool], after: list[bool], rule: QualityRule = RULE, **more):  # type: ignore[no-untyped-def]
    stable, candidate = make_items(before, **more), make_items(after, **more)
    return quality(subject(items=candidate), [subject("stable 0.1.2", items=stable)], rule)


def overall(findings):  # type: ignore[no-untyped-def]
    return next(finding for finding in findings if finding.slice == "overall")


def test_an_equal_model_on_enough_items_passes_in_every_slice() -> None:
    findings = quality(subject(), [STABLE], RULE)
    assert states(findings) == {"overall": "pass", "class:ham": "pass", "class:spam": "pass"}


def test_a_model_that_is_worse_for_sure_fails_and_holds() -> None:
    """One in ten turns wrong, none turns right: 10 points on 1000 items."""
    findings = compared(right(1000), right(1000, range(100)))
    assert (overall(findings).state, held(findings)) == ("fail", True)
    assert overall(findings).what.startswith("-10.0 points on 1000 items")


def test_too_few_items_are_undecided_and_hold_and_say_how_many_would_decide() -> None:
    findings = compared(right(60), right(60, [3]))
    assert (overall(findings).state, held(findings)) == ("inconclusive", True)
    assert overall(findings).needed > 60 and "items would decide" in overall(findings).what


def test_not_lower_is_not_asked_for_a_hair_below_passes() -> None:
    """Five of 2000 turn wrong: lower by 0.25 points for sure, and not by two."""
    findings = compared(right(2000), right(2000, range(5)))
    assert overall(findings).evidence["difference"] == -0.0025 and overall(findings).state == "pass"


def test_what_mcnemar_does_not_find_significant_can_fail_to_pass() -> None:
    """7 turn wrong and 3 right of 200: p = 0.34, and nobody can say that it is not two points worse."""
    before, after = right(200, [0, 1, 2]), right(200, range(3, 10))
    found = overall(compared(before, after))
    assert found.evidence["mcnemar_p"] == approx(0.34375) and found.state == "inconclusive"


def test_each_of_the_others_is_compared_so_that_small_steps_down_do_not_add_up() -> None:
    """Every release 1.5 points below the last: fine against stable, 6 points below the anchor."""
    stable, candidate = make_items(right(4000, range(180))), make_items(right(4000, range(240)))
    others = [subject("stable 0.1.4", items=stable), subject("anchor 0.1.0", items=make_items(right(4000)))]
    findings = [finding for finding in quality(subject(items=candidate), others, RULE) if finding.slice == "overall"]
    assert [(finding.against, finding.state) for finding in findings] == [
        ("stable 0.1.4", "pass"),
        ("anchor 0.1.0", "fail"),
    ]


def test_the_anchors_alpha_is_divided_among_the_rounds_that_are_compared_with_it() -> None:
    """47 turn wrong and 25 right of 2000: sure at 5 % that it is not 2 points worse, and not at a twentieth of that."""
    stable, candidate = make_items(right(2000, range(25))), make_items(right(2000, range(25, 72)))
    loose, tight = (
        overall(quality(subject(items=candidate), [subject("anchor", items=stable, pinned=pinned)], RULE))
        for pinned in (False, True)
    )
    assert (loose.state, loose.evidence["alpha"]) == ("pass", 0.05)
    assert (tight.state, tight.evidence["alpha"]) == ("inconclusive", 0.0025)
    assert tight.needed > 2000 and tight.evidence["low"] < loose.evidence["low"]


def test_a_class_that_is_forgotten_fails_though_the_whole_passes() -> None:
    """60 of 4000 items are spam, and now all of them are wrong: 1.5 points overall, a hundred of the class."""
    truth = [0] * 3940 + [1] * 60
    findings = compared(right(4000), right(4000, range(3940, 4000)), truth=truth)
    assert states(findings) == {"overall": "pass", "class:ham": "pass", "class:spam": "fail"} and held(findings)


def test_a_site_that_gets_worse_fails_though_the_whole_passes_and_is_the_worst_site() -> None:
    group = ["north"] * 3900 + ["south"] * 100
    findings = compared(right(4000), right(4000, range(3960, 4000)), group=group)
    assert {name: state for name, state in states(findings).items() if not name.startswith("class")} == {
        "overall": "pass",
        "site:north": "pass",
        "site:south": "fail",
        "worst-site": "fail",
    }


def test_a_small_slice_that_is_undecided_warns_and_holds_only_if_asked_to() -> None:
    group = ["north"] * 3990 + ["south"] * 10
    before = after = right(4000)
    lenient, strict = (
        compared(before, after, QualityRule(undecided_slices=how), group=group) for how in ("warn", "block")
    )
    assert states(lenient)["site:south"] == states(strict)["site:south"] == "inconclusive"
    assert (held(lenient), held(strict)) == (False, True)


def test_the_worst_tenth_is_asked_for_from_ten_sites_on() -> None:
    """Of 20 sites of 200 the two that were and are worst get worse together by 25 points."""
    group = [f"s{place // 200:02d}" for place in range(4000)]
    before, after = right(4000, range(3600, 3700)), right(4000, range(3600, 3800))
    found = states(compared(before, after, group=group))
    assert found["worst-decile"] == "fail"
    assert "worst-decile" not in states(compared(right(900), right(900), group=[f"s{p % 9}" for p in range(900)]))


@pytest.mark.parametrize(
    "other",
    [
        subject("stable", items=None),
        subject("stable", items=make_items(right(1000), evaluation=OTHER_SET)),
        subject("stable", items=make_items(right(999))),
        subject("stable", items=make_items(right(1000), truth=[0] * 1000)),
        subject("stable", items=make_items(right(1000), group=["elsewhere"] * 1000)),
        subject("stable", items=make_items(right(1000), loss=[math.nan] + [0.5] * 999)),
    ],
)
def test_missing_or_other_items_are_an_error_and_never_pass(other: Subject) -> None:
    findings = quality(subject(), [other], RULE)
    assert states(findings) == {"overall": "error"} and held(findings)


def test_a_candidate_that_answers_with_nan_or_not_at_all_is_an_error() -> None:
    broken = subject(items=make_items(right(1000), loss=[math.inf] + [0.5] * 999))
    assert states(quality(broken, [STABLE], RULE)) == {"overall": "error"}
    assert states(quality(subject(items=None), [STABLE], RULE)) == {"overall": "error"}


def test_an_empty_set_and_an_empty_class_are_errors() -> None:
    assert states(compared([], [])) == {"overall": "error"}
    assert states(compared(right(1000), right(1000), truth=[0] * 1000))["class:spam"] == "error"


def test_before_anything_serves_there_is_nothing_to_compare() -> None:
    assert states(quality(subject(), [], RULE)) == {"overall": "skipped"}


# labels that grow


def grown(wrong: range | list[int], *, evaluation: str = SET, n: int = 3000) -> Subject:
    """1000 items of each of ham, spam, news; ``wrong`` are answered wrongly."""
    truth = [place // 1000 for place in range(n)]
    labels = ("ham", "spam", "news")
    items = make_items(right(n, wrong), truth=truth, labels=labels, evaluation=evaluation, parts=PARTS)
    return subject(items=items)


def old_on_grown_set() -> Subject:
    """What serves knows ham and spam, and was run on the grown set: every news item is wrong."""
    truth, labels = [place // 1000 for place in range(3000)], ("ham", "spam", "news")
    items = make_items(right(3000, range(2000, 3000)), truth=truth, labels=labels, known=("ham", "spam"))
    return subject("stable", items=items)


def test_old_labels_are_compared_on_their_own_since_new_ones_would_hide_what_is_forgotten() -> None:
    """200 of 2000 old items turn wrong, 1000 new ones turn right: overall 26.7 points better, and 10 worse for what was."""
    findings = quality(grown(range(900, 1100)), [old_on_grown_set()], RULE)
    found = states(findings)
    assert (found["overall"], found["old-labels"], found["class:news"]) == ("pass", "fail", "skipped")
    assert held(findings)


def test_a_release_that_learns_a_label_and_keeps_the_others_passes() -> None:
    findings = quality(grown([5, 1005]), [old_on_grown_set()], RULE)
    assert set(states(findings).values()) == {"pass", "skipped"} and not held(findings)


def test_predictions_on_the_smaller_set_are_enough_where_both_name_the_same_rows_of_a_label() -> None:
    """The old set holds the same ham and spam, in turns; rows are paired label by label."""
    old = make_items(right(2000), evaluation=OTHER_SET, parts={label: PARTS[label] for label in ("ham", "spam")})
    stable = subject("stable", items=old)
    found = states(quality(grown(range(400), evaluation=SET), [stable], RULE))
    assert found == {"old-labels": "fail", "class:ham": "fail", "class:spam": "pass", "class:news": "skipped"}


def test_other_rows_of_an_old_label_are_an_error() -> None:
    other = {"ham": PARTS["ham"], "spam": digest_bytes(b"other rows")}
    stable = subject("stable", items=make_items(right(2000), evaluation=OTHER_SET, parts=other))
    assert states(quality(grown([]), [stable], RULE)) == {"overall": "error"}


def test_items_of_a_label_that_neither_knows_do_not_water_down_a_difference() -> None:
    """40 of 1000 known items turn wrong; 9000 that nobody can answer would make 4 points look like 0.4."""
    truth = [place % 2 for place in range(1000)] + [2] * 9000
    labels, known = ("ham", "spam", "news"), ("ham", "spam")
    before, after = (right(10_000, [*wrong, *range(1000, 10_000)]) for wrong in ([], range(40)))
    (found,) = [f for f in compared(before, after, truth=truth, labels=labels, known=known) if f.slice == "overall"]
    assert (found.state, found.evidence["n"]) == ("fail", 1000)


# accuracies with noise, and no items


def scores(accuracy: float, *, noise: float = 0.005, examples: float = 2000, evaluation: str = SET) -> SiteScores:
    sites = ("north", "south", "west")
    return SiteScores(
        evaluation=evaluation,
        accuracy=dict.fromkeys(sites, accuracy),
        examples=dict.fromkeys(sites, examples),
        noise=dict.fromkeys(sites, noise),
    )


def noised(before: SiteScores | None, after: SiteScores):  # type: ignore[no-untyped-def]
    return quality(subject(items=None, scores=after), [subject("stable", items=None, scores=before)], RULE)


@pytest.mark.parametrize(
    ("after", "noise", "state"),
    [(0.95, 0.002, "pass"), (0.80, 0.002, "fail"), (0.95, 0.1, "inconclusive"), (1.2, 0.5, "inconclusive")],
)
def test_noisy_accuracies_decide_only_when_their_interval_does(after: float, noise: float, state: str) -> None:
    findings = noised(scores(0.95, noise=noise, examples=5000), scores(after, noise=noise, examples=5000))
    assert overall(findings).state == state and held(findings) == (state != "pass")


def test_exact_accuracies_of_few_rows_do_not_pass_silently_either() -> None:
    assert overall(noised(scores(0.9, noise=0, examples=50), scores(0.9, noise=0, examples=50))).state == "inconclusive"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        scores(math.nan),
        scores(0.9, noise=math.nan),
        scores(0.9, examples=0),
        scores(0.9, evaluation=OTHER_SET),
        SiteScores(evaluation=SET, accuracy={"east": 0.9}, examples={"east": 9}, noise={"east": 0}),
    ],
)
def test_accuracies_that_are_missing_or_of_other_rows_are_an_error(broken: SiteScores | None) -> None:
    assert states(noised(broken, scores(0.9))) == {"overall": "error"}


def test_the_variance_without_items_is_at_least_that_of_any_items() -> None:
    """Every table of 20 items: the two accuracies and the row count bound (b + c - n d^2) / n^2 from above."""
    n = 20
    for both in range(n + 1):
        for b in range(n + 1 - both):
            for c in range(n + 1 - both - b):
                true = ((b + c) / n - ((c - b) / n) ** 2) / n
                assert spread((both + c) / n, (both + b) / n, n) >= true - 1e-12


def test_asking_every_slice_to_be_decided_costs_equal_models_and_gains_worse_ones_nothing() -> None:
    """Four classes of 350 items, margin 5: over the same draws, what passes strictly passes leniently, never the reverse."""
    lenient, strict = QualityRule(), QualityRule(undecided_slices="block")
    equal, worse = (passes(shares, (lenient, strict)) for shares in ([0.04, 0.04, 0.92], [0.055, 0.025, 0.92]))
    for passed in (equal, worse):
        assert all(loose or not tight for loose, tight in passed)
    assert sum(loose for loose, _ in equal) > sum(tight for _, tight in equal) > 0
    assert sum(loose for loose, _ in worse) <= 3, "3 points worse, margin 2"


def passes(shares: list[float], rules: tuple[QualityRule, QualityRule], times: int = 40) -> list[tuple[bool, bool]]:
    generator, found = np.random.default_rng(0), []
    for _ in range(times):
        drawn = generator.choice(3, size=1400, p=shares)
        before, after = (drawn != 1).tolist(), (drawn != 0).tolist()
        strict, lenient = (not held(compared(before, after, rule, labels=("a", "b", "c", "d"))) for rule in rules[::-1])
        found.append((lenient, strict))
    return found


@pytest.mark.parametrize("task", ["causal-lm", "regression"])
def test_where_items_have_no_class_gates_look_at_all_of_them_and_at_sites(task: str) -> None:
    """All items are to be right, so that no item is of the first label."""
    told = make_items(right(1000, range(100)), truth=[1] * 1000, labels=FIXED_LABELS[task], group=["a"] * 1000)
    facts = replace(MANIFEST.task, name=task, labels=FIXED_LABELS[task])
    candidate, stable = (
        subject(items=told, task=facts),
        subject("stable 0.1.2", version="0.1.2", items=told, task=facts),
    )
    found = quality(candidate, [stable], QualityRule(margin=0.05))
    assert states(found) == {"overall": "pass", "site:a": "pass"}
    assert not held(found)
