"""The gate of exports: each of its checks has something that it blocks, and something that it passes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples import MANIFEST, SHA
from tiny import token_rows

from fedrelease import facts
from fedrelease.errors import StoreError
from fedrelease.gate_rules import QualityRule
from fedrelease.server.exports.gate import (
    AgreementRule,
    LogitsRule,
    cheaper,
    not_worse,
    same_answers,
    same_logits,
)
from fedrelease.server.exports.rows import CheckRows
from fedrelease.server.variants import Variant

MANIFEST_2 = replace(MANIFEST, task=replace(MANIFEST.task, labels=("negative", "positive")))


def answers(places: list[int]) -> torch.Tensor:
    """Logits of two labels that say these."""
    return torch.nn.functional.one_hot(torch.tensor(places), 2).float()


def state_of_agreement(same: int, n: int) -> str:
    found = same_answers(answers([0] * same + [1] * (n - same)), answers([0] * n), AgreementRule(), against="it")
    return found.state


@pytest.mark.parametrize(
    ("same", "n", "state"),
    [
        (149, 149, "pass"),  # 0.05 ^ (1 / 149) = 0.9801
        (148, 148, "inconclusive"),  # 0.05 ^ (1 / 148) = 0.97996
        (90, 100, "fail"),
        (98, 100, "inconclusive"),
    ],
)
def test_agreement_is_judged_by_exact_bounds(same: int, n: int, state: str) -> None:
    assert state_of_agreement(same, n) == state


def test_undecided_agreement_says_how_many_rows_would_do() -> None:
    found = same_answers(answers([0] * 40), answers([0] * 40), AgreementRule(), against="it")
    assert found.needed is not None
    assert state_of_agreement(found.needed, found.needed) == "pass"


@pytest.mark.parametrize(("apart", "state"), [(0.5e-4, "pass"), (2e-4, "fail")])
def test_logits_pass_within_their_tolerance_only(apart: float, state: str) -> None:
    wanted = torch.zeros(3, 2)
    found = same_logits(wanted + apart, wanted, LogitsRule(most=1e-4), against="it")
    assert found.state == state


def test_large_logits_may_differ_by_a_share_of_the_largest() -> None:
    wanted = torch.tensor([[20.0, -1.0], [3.0, 0.0]])
    near, far = (same_logits(wanted + apart, wanted, LogitsRule(), against="it") for apart in (1.5e-4, 3e-4))
    assert (near.state, far.state) == ("pass", "fail")
    assert near.what.endswith("(at most 2.0e-04, 1e-05 of the largest logit)")
    assert near.evidence["most"] == pytest.approx(2e-4)


def test_what_is_no_number_is_an_error_and_never_a_pass() -> None:
    broken = torch.tensor([[float("nan"), 0.0]])
    assert same_logits(broken, torch.zeros(1, 2), LogitsRule(), against="it").state == "error"
    assert same_answers(broken, torch.zeros(1, 2), AgreementRule(), against="it").state == "error"


def test_a_variant_that_loses_accuracy_fails_although_most_answers_agree(tmp_path: Path, tiny_base: Path) -> None:
    rows = CheckRows(rows=token_rows(tmp_path / "rows", tiny_base, count=400), labelled=True, source="rows")
    truth = rows.rows.labels.tolist()
    worse = [1 - label if place < 40 else label for place, label in enumerate(truth)]  # 40 of 400: ten points
    rule = QualityRule(class_severity="info")
    (overall, *_) = not_worse(answers(worse), answers(truth), rows, rule, MANIFEST_2, against="it")
    assert (overall.state, overall.evidence["difference"]) == ("fail", -0.1)
    (equal, *_) = not_worse(answers(truth), answers(truth), rows, rule, MANIFEST_2, against="it")
    assert equal.state == "pass"


def test_rows_without_labels_say_nothing_of_accuracy(tmp_path: Path, tiny_base: Path) -> None:
    rows = CheckRows(rows=token_rows(tmp_path / "rows", tiny_base), labelled=False, source="made up")
    logits = answers(rows.rows.labels.tolist())
    assert not_worse(logits, logits, rows, QualityRule(), MANIFEST_2, against="it") == []


def test_a_variant_that_is_larger_fails_and_a_slower_one_is_told() -> None:
    quick, slow = torch.full((60,), 0.001), torch.full((60,), 0.003)
    size, time = cheaper((200, slow), (100, quick), MANIFEST, against="it")
    assert (size.state, size.severity, time.state, time.severity) == ("fail", "block", "fail", "warn")
    size, time = cheaper((50, quick), (100, slow), MANIFEST, against="it")
    assert (size.state, time.state) == ("pass", "pass")


def variant(*findings: str) -> Variant:
    made = same_logits(torch.zeros(1, 2), torch.zeros(1, 2), LogitsRule(), against="it")
    return Variant(
        version="0.1.1",
        digest=f"sha256:{SHA}",
        format="onnx",
        files={"model.onnx": SHA},
        size_bytes=10,
        rows="1 rows: made up",
        measured={"agreement": 1.0},
        findings=tuple(replace(made, state=state) for state in findings),
    )


def test_a_variant_reads_back_as_it_was_written_and_is_servable_only_if_all_passed() -> None:
    made = variant("pass", "inconclusive")
    assert facts.from_bytes(Variant, facts.to_bytes(made)) == made
    assert [variant(*states).servable for states in (("pass",), ("pass", "fail"), ("inconclusive",))] == [
        True,
        False,
        False,
    ]


def test_a_newer_schema_of_a_variant_is_refused() -> None:
    with pytest.raises(StoreError, match="update fedrelease"):
        replace(variant("pass"), schema=2)
