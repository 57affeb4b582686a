"""Each gate but quality: a candidate that it blocks, one that it passes, and one of which it cannot tell."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import MANIFEST, PRIVACY, RECEIPT
from gate_examples import OTHER_SET, STABLE, STATE, held, make_items, right, states, subject
from pytest import approx

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Privacy
from fedrelease.gate_choice import make_rule
from fedrelease.gate_rules import (
    GATES,
    ChurnRule,
    CompatibilityRule,
    IntegrityRule,
    LatencyRule,
    LooksRule,
    LossRule,
    MemoryRule,
    PrivacyRule,
    SizeRule,
    UpdateRule,
)
from fedrelease.server.gates import ROOMS, run_gates
from fedrelease.server.gates.churn import churn
from fedrelease.server.gates.compatibility import compatibility
from fedrelease.server.gates.cost import latency, memory, size
from fedrelease.server.gates.integrity import integrity
from fedrelease.server.gates.looks import looks
from fedrelease.server.gates.loss import loss
from fedrelease.server.gates.privacy import privacy
from fedrelease.server.gates.subject import Step, cosine, step_between
from fedrelease.server.gates.update import deviations, update

BLOCK = "block"


def only(findings, state):  # type: ignore[no-untyped-def]
    """The findings in this state; the others are passes."""
    return [finding for finding in findings if finding.state == state]


# integrity


def test_integrity_passes_the_declared_tensors_in_the_manifests_bytes() -> None:
    findings = integrity(subject(), (), IntegrityRule())
    assert [finding.state for finding in findings] == ["pass", "pass"] and not held(findings)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"digests": {"adapter.safetensors": "0" * 64}}, "adapter.safetensors"),
        ({"state": {**STATE, "head.bias": torch.tensor([0.0, math.nan])}}, "head.bias is not finite"),
        ({"state": {**STATE, "head.bias": torch.tensor([0.0, math.inf])}}, "head.bias is not finite"),
        ({"state": {**STATE, "head.bias": torch.zeros(3)}}, "head.bias is float32[3], declared is float32[2]"),
        ({"state": {**STATE, "head.bias": torch.zeros(2).half()}}, "float16[2], declared is float32[2]"),
        ({"state": {"head.weight": STATE["head.weight"]}}, "head.bias is missing"),
        ({"state": {**STATE, "extra": torch.zeros(1)}}, "declared is nothing"),
    ],
)
def test_integrity_blocks_altered_bytes_and_tensors_that_are_not_as_declared(changed, told) -> None:  # type: ignore[no-untyped-def]
    findings = integrity(subject(**changed), (), IntegrityRule())
    assert held(findings) and told in only(findings, "fail")[0].what


@pytest.mark.parametrize(
    "missing", [{"digests": None}, {"digests": {}}, {"state": None}, {"declared": {}}, {"files": ()}]
)
def test_integrity_is_an_error_where_nothing_was_read(missing) -> None:  # type: ignore[no-untyped-def]
    findings = integrity(subject(**missing), (), IntegrityRule())
    assert held(findings) and len(only(findings, "error")) == 1


# compatibility


def grown(major: int) -> object:
    labels = replace(MANIFEST.task, labels=("ham", "spam", "news"))
    return subject(version=f"{major}.1.0", task=labels)


def test_compatibility_passes_the_same_interface_and_a_new_one_under_a_higher_major() -> None:
    assert states(compatibility(subject(), [STABLE], CompatibilityRule())) == {"overall": "pass"}
    (found,) = compatibility(grown(1), [STABLE], CompatibilityRule())  # type: ignore[arg-type]
    assert (found.state, found.what) == ("pass", "labels changed, and MAJOR rises from 0 to 1")


@pytest.mark.parametrize(
    "changed",
    [
        {"task": replace(MANIFEST.task, labels=("ham",))},
        {"task": replace(MANIFEST.task, tokenizer="0" * 64)},
        {"adapter": replace(MANIFEST.adapter, rank=16)},
        {"base": replace(MANIFEST.base, files={"model.safetensors": "0" * 64})},
    ],
)
def test_compatibility_blocks_a_new_interface_under_the_old_major(changed) -> None:  # type: ignore[no-untyped-def]
    (found,) = compatibility(subject(**changed), [STABLE], CompatibilityRule())
    assert (found.state, held([found])) == ("fail", True)
    assert "MAJOR stays 0" in found.what


def test_compatibility_names_a_label_that_goes() -> None:
    (found,) = compatibility(subject(task=replace(MANIFEST.task, labels=("ham",))), [STABLE], CompatibilityRule())
    assert "without spam" in found.what


def test_compatibility_is_an_error_without_an_interface_and_skipped_where_nothing_serves() -> None:
    silent = subject(base=replace(MANIFEST.base, files={}))
    assert states(compatibility(silent, [STABLE], CompatibilityRule())) == {"overall": "error"}
    assert states(compatibility(subject(), [], CompatibilityRule())) == {"overall": "skipped"}


# update


def stepped(**changed: object) -> Step:
    return replace(subject().step, **changed)  # type: ignore[type-var]


def test_update_passes_a_step_like_those_before_it() -> None:
    findings = update(subject(), (), UpdateRule(severity=BLOCK))
    assert [finding.state for finding in findings] == ["pass"] * 3 and not held(findings)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"norm": 40.0}, "deviations from the median"),
        ({"norm": 0.0}, "deviations from the median"),
        ({"cosine": -0.9}, "cosine -0.90"),
        ({"accepted": 1}, "1 of 1 answers count"),
        ({"accepted": 2, "refused": 3}, "2 of 5 answers count"),
    ],
)
def test_update_blocks_a_step_out_of_the_ordinary(changed, told) -> None:  # type: ignore[no-untyped-def]
    findings = update(subject(step=stepped(**changed)), (), UpdateRule(severity=BLOCK, least_sites=2))
    assert held(findings) and told in only(findings, "fail")[0].what


def test_update_is_skipped_in_the_first_round_and_an_error_when_nobody_measured() -> None:
    first = subject(step=None, round=1)
    assert states(update(first, (), UpdateRule(severity=BLOCK))) == {"overall": "skipped"}
    assert states(update(subject(step=None), (), UpdateRule(severity=BLOCK))) == {"overall": "error"}


@pytest.mark.parametrize("changed", [{"norm": math.nan}, {"earlier": (1.0, math.inf)}, {"cosine": math.nan}])
def test_update_is_an_error_where_a_norm_is_no_number(changed) -> None:  # type: ignore[no-untyped-def]
    assert states(update(subject(step=stepped(**changed)), (), UpdateRule())) == {"overall": "error"}


def test_update_compares_no_norm_until_there_are_three_earlier_ones() -> None:
    norm, *_ = update(subject(step=stepped(norm=99.0, earlier=(1.0, 1.0))), (), UpdateRule())
    assert norm.state == "skipped" and "it takes 3" in norm.what


def test_deviations_are_counted_in_scaled_medians_of_the_distance_to_the_median() -> None:
    """Median of 1, 2, 3, 4, 100 is 3; distances 2, 1, 0, 1, 97, median 1; (7 - 3) / 1.4826. One outlier changes nothing."""
    assert deviations(7.0, (1.0, 2.0, 3.0, 4.0, 100.0)) == approx(4 / 1.4826)


def test_equal_norms_before_do_not_forbid_every_other_norm() -> None:
    assert deviations(1.1, (1.0, 1.0, 1.0)) == approx(0.1 / 0.05)


def test_the_cosine_of_two_steps_leaves_out_what_grew() -> None:
    """Parent 0; steps (3, 4) and (4, 3): 24 / 25. The head grew from 2 to 3 rows and is not compared."""
    zero = {"a": torch.zeros(2), "head": torch.zeros(2)}
    first = step_between(zero, {"a": torch.tensor([3.0, 4.0]), "head": torch.ones(3)})
    second = step_between(zero, {"a": torch.tensor([4.0, 3.0]), "head": torch.ones(2)})
    assert cosine(first, second) == approx(24 / 25)
    assert cosine(first, {"a": torch.zeros(2)}) is None


# privacy


def test_privacy_passes_what_is_within_the_plan_and_the_phase() -> None:
    assert states(privacy(subject(), (), PrivacyRule())) == {"overall": "pass"}
    assert states(privacy(subject(), (), PrivacyRule(epsilon=1.4))) == {"overall": "pass"}


@pytest.mark.parametrize(
    "changed",
    [
        {"plan": Privacy(epsilon=1.3)},
        {"privacy": replace(PRIVACY, epsilon_total=8.1)},
        {"privacy": replace(PRIVACY, sites=(replace(RECEIPT, epsilon_total=8.1),))},
        {"privacy": replace(PRIVACY, delta=1e-3)},
    ],
)
def test_privacy_blocks_what_the_worst_site_overspent(changed) -> None:  # type: ignore[no-untyped-def]
    findings = privacy(subject(**changed), (), PrivacyRule())
    assert states(findings) == {"overall": "fail"} and held(findings)


def test_privacy_blocks_beyond_the_phases_own_limit_too() -> None:
    assert states(privacy(subject(), (), PrivacyRule(epsilon=1.0))) == {"overall": "fail"}


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"privacy": None}, PrivacyRule()),
        ({"privacy": None, "plan": Privacy(unit="none")}, PrivacyRule(epsilon=4.0)),
        ({"privacy": replace(PRIVACY, epsilon_total=math.nan)}, PrivacyRule()),
        ({"plan": Privacy(unit="none")}, PrivacyRule()),
    ],
)
def test_privacy_is_an_error_where_what_was_spent_or_allowed_is_not_told(changed, rule) -> None:  # type: ignore[no-untyped-def]
    assert states(privacy(subject(**changed), (), rule)) == {"overall": "error"}


def test_privacy_is_skipped_where_none_was_promised() -> None:
    assert states(privacy(subject(privacy=None, plan=Privacy(unit="none")), (), PrivacyRule())) == {
        "overall": "skipped"
    }


# churn


def test_churn_passes_few_blocks_many_and_says_how_many_items_would_decide() -> None:
    """5, 100 and 50 of 1000 right answers turn wrong; at most 5 % may."""
    stable = subject("stable", items=make_items(right(1000)))
    found = [
        churn(subject(items=make_items(right(1000, range(turned)))), [stable], ChurnRule(severity=BLOCK))
        for turned in (5, 100, 45)
    ]
    assert [findings[0].state for findings in found] == ["pass", "fail", "inconclusive"]
    assert [held(findings) for findings in found] == [False, True, True]
    assert found[2][0].needed > 1000  # type: ignore[operator]


def test_churn_counts_what_turns_wrong_even_where_as_many_turn_right() -> None:
    before = make_items(right(1000, range(100)))
    after = make_items(right(1000, range(100, 200)))
    (found,) = churn(subject(items=after), [subject("stable", items=before)], ChurnRule())
    assert (found.state, found.evidence["share"]) == ("fail", 0.1)


def test_churn_is_an_error_without_predictions_or_on_another_set() -> None:
    other = subject("stable", items=make_items(right(1000), evaluation=OTHER_SET))
    assert states(churn(subject(), [other], ChurnRule())) == {"overall": "error"}
    assert states(churn(subject(items=None), [STABLE], ChurnRule())) == {"overall": "error"}
    assert states(churn(subject(), [], ChurnRule())) == {"overall": "skipped"}


# loss


def lossy(shift: float, *, n: int = 400, sites: int = 1) -> object:
    spread = np.random.default_rng(0).normal(0.5 + shift, 0.05, n)
    return subject(
        items=make_items([True] * n, loss=spread.tolist(), group=[f"s{place % sites}" for place in range(n)])
    )


def test_loss_passes_equal_blocks_a_rise_and_is_undecided_at_the_margin() -> None:
    rule = LossRule(severity=BLOCK, margin=0.05)
    found = [loss(lossy(shift), [flat(400)], rule)[0] for shift in (0.0, 0.2, 0.05)]  # type: ignore[arg-type]
    assert [finding.state for finding in found] == ["pass", "fail", "inconclusive"]
    assert [held([finding]) for finding in found] == [False, True, True]


def flat(n: int, sites: int = 1):  # type: ignore[no-untyped-def]
    group = [f"s{place % sites}" for place in range(n)]
    return subject("stable", items=make_items([True] * n, loss=0.5, group=group))


def test_loss_draws_whole_sites_from_ten_sites_on() -> None:
    few, many = (
        loss(lossy(0.0, sites=sites), [flat(400, sites)], LossRule())[0].evidence["drawn"]  # type: ignore[arg-type]
        for sites in (9, 10)
    )
    assert (few, many) == ("items", "sites")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_is_an_error_where_one_is_no_number(bad: float) -> None:
    broken = subject(items=make_items([True] * 400, loss=[bad] + [0.5] * 399))
    assert states(loss(broken, [flat(400)], LossRule())) == {"overall": "error"}


def test_loss_of_a_handful_of_items_decides_nothing() -> None:
    (found,) = loss(flat(5), [flat(5)], LossRule())
    assert (found.state, found.needed) == ("inconclusive", 20)


# latency, memory, size


def timed(factor: float, *, k: int = 40, noise: float = 0.02) -> object:
    return subject(seconds=factor * 0.01 * np.random.default_rng(1).lognormal(0, noise, k))


@pytest.mark.parametrize(
    ("factor", "noise", "state"),
    [(1.0, 0.02, "pass"), (2.0, 0.02, "fail"), (1.2, 0.05, "inconclusive"), (1.0, 3, "inconclusive")],
)
def test_latency_passes_blocks_and_is_undecided_where_it_is_noisy(factor: float, noise: float, state: str) -> None:
    serving = subject("stable", seconds=0.01 * np.random.default_rng(2).lognormal(0, noise, 40))
    findings = latency(timed(factor, noise=noise), [serving], LatencyRule(severity=BLOCK))  # type: ignore[arg-type]
    assert states(findings) == {"overall": state} and held(findings) == (state != "pass")


@pytest.mark.parametrize("seconds", [None, np.array([]), np.array([0.01, math.nan] * 20), np.zeros(40), np.ones(39)])
def test_latency_is_an_error_without_times_taken_in_turns(seconds) -> None:  # type: ignore[no-untyped-def]
    assert states(latency(subject(seconds=seconds), [STABLE], LatencyRule())) == {"overall": "error"}


def test_latency_of_few_timings_decides_nothing() -> None:
    few = subject("stable", seconds=np.full(5, 0.01))
    (found,) = latency(subject(seconds=np.full(5, 0.01)), [few], LatencyRule())
    assert (found.state, found.needed) == ("inconclusive", 20)


@pytest.mark.parametrize(("bytes_", "state"), [(1000, "pass"), (1201, "fail"), (None, "error"), (0, "error")])
def test_memory_passes_a_fifth_more_blocks_beyond_and_is_an_error_unmeasured(bytes_, state: str) -> None:  # type: ignore[no-untyped-def]
    findings = memory(subject(memory_bytes=bytes_), [STABLE], MemoryRule(severity=BLOCK))
    assert states(findings) == {"overall": state} and held(findings) == (state != "pass")


@pytest.mark.parametrize(("bytes_", "state"), [(12, "pass"), (13, "fail"), (0, "error")])
def test_size_is_of_the_files_that_serve(bytes_: int, state: str) -> None:
    """Ten bytes serve now; a report of a megabyte beside the adapter serves nobody."""
    adapter, doc = (
        replace(MANIFEST.files[0], size=bytes_),
        replace(MANIFEST.files[0], path="r.json", role="doc", size=10**6),
    )
    findings = size(subject(files=(adapter, doc)), [STABLE], SizeRule(severity=BLOCK))
    assert states(findings) == {"overall": state} and held(findings) == (state != "pass")


@pytest.mark.parametrize(("gate", "rule"), [(latency, LatencyRule()), (memory, MemoryRule()), (size, SizeRule())])
def test_costs_are_skipped_where_nothing_serves(gate, rule) -> None:  # type: ignore[no-untyped-def]
    assert states(gate(subject(), [], rule)) == {"overall": "skipped"}


# looks


@pytest.mark.parametrize(("count", "state"), [(49, "pass"), (50, "fail"), (None, "error")])
def test_looks_warn_at_fifty_and_are_an_error_uncounted(count: int | None, state: str) -> None:
    findings = looks(subject(looks=count), (), LooksRule(severity=BLOCK))
    assert states(findings) == {"overall": state} and held(findings) == (state != "pass")
    assert not held(looks(subject(looks=count), (), LooksRule())), "by default it only warns"


# all together


def test_every_gate_that_has_knobs_has_a_check_and_the_other_way_round() -> None:
    assert sorted(GATES) == sorted(ROOMS)


def test_a_whole_candidate_passes_every_gate_with_its_defaults_and_every_gate_speaks() -> None:
    findings = run_gates(subject(), [STABLE], {name: make_rule(name, {}) for name in GATES})
    assert {finding.gate for finding in findings} == set(GATES)
    assert {finding.state for finding in findings} == {"pass"}


def test_a_candidate_of_which_nothing_was_measured_passes_no_gate_that_compares_with_what_serves() -> None:
    from fedrelease.server.gates.subject import Subject

    bare = Subject(name="candidate", manifest=replace(MANIFEST, round=3, privacy=None))
    findings = run_gates(bare, [STABLE], {name: make_rule(name, {}) for name in GATES})
    assert {f.gate for f in findings if f.state == "pass"} == {"compatibility", "size"}, "those ask the manifest only"
    assert {f.gate for f in findings if f.state == "error"} == set(GATES) - {"compatibility", "size"}


def test_an_unknown_gate_or_knob_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ExperimentError, match="did you mean quality"):
        make_rule("qualty", {})
    with pytest.raises(ExperimentError, match="its knobs are alpha, most, severity"):
        make_rule("churn", {"margin": 0.1})
    with pytest.raises(ExperimentError, match="wrong type"):
        make_rule("churn", {"most": "much"})


@pytest.mark.parametrize(
    ("name", "knobs", "told"),
    [
        ("quality", {"margin": 2.0}, "gates.quality.margin"),
        ("quality", {"alpha": 0.0}, "gates.quality.alpha"),
        ("quality", {"undecided_slices": "hold"}, "block, warn, info"),
        ("latency", {"most_ratio": 0.9}, "gates.latency.most_ratio"),
        ("update", {"least_cosine": 2.0}, "between -1 and 1"),
        ("privacy", {"epsilon": -1.0}, "gates.privacy.epsilon"),
        ("integrity", {"severity": "fatal"}, "gates.integrity.severity"),
    ],
)
def test_a_knob_out_of_bounds_is_refused_by_its_key(name: str, knobs, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ExperimentError, match=told):
        make_rule(name, knobs)
