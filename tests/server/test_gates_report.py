"""What is kept of gates: predictions, findings and the report, as bytes, as words and as a page."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from gate_examples import SET, make_items, right
from safetensors.numpy import load, save

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.server.gates.contract import STATES, Finding, GateReport, worst_state
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.page import report_html

DIGEST = "sha256:" + "ab" * 32
FINDING = Finding(
    gate="quality",
    slice="overall",
    against="stable 0.1.2",
    state="pass",
    severity="block",
    what="+0.5 points on 1000 items",
    evidence={"n": 1000, "low": -0.0125, "method": "tango", "drawn": None},
    needed=None,
)


def report(*findings: Finding) -> GateReport:
    return GateReport(version="0.1.3", digest=DIGEST, findings=findings, evaluation=SET, looks=4)


def in_state(state: str, severity: str = "block", **more: object) -> Finding:
    return replace(FINDING, state=state, severity=severity, **more)  # type: ignore[arg-type]


# verdict


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((), "pass"),
        (("pass", "pass"), "pass"),
        (("pass", "skipped"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("inconclusive", "fail", "pass"), "fail"),
        (("fail", "error", "inconclusive"), "error"),
    ],
)
def test_the_verdict_is_the_worst_state_of_those_that_block(states: tuple[str, ...], verdict: str) -> None:
    assert report(*(in_state(state) for state in states)).verdict == verdict


@pytest.mark.parametrize("severity", ["warn", "info"])
@pytest.mark.parametrize("state", STATES)
def test_a_warning_never_holds_a_release(state: str, severity: str) -> None:
    assert worst_state([in_state(state, severity)]) == "pass" and not in_state(state, severity).holds


def test_the_sentence_says_what_holds_the_release_worst_first() -> None:
    found = report(in_state("inconclusive"), in_state("fail", slice="class:spam", what="-9 points"), in_state("pass"))
    assert found.sentence == "held: quality class:spam against stable 0.1.2: -9 points (and 1 more)"
    assert [finding.state for finding in found.held_by] == ["fail", "inconclusive"]
    assert report(in_state("pass"), in_state("fail", "warn")).sentence == "passed, with 1 warning"
    assert report(in_state("pass")).sentence == "passed"


# bytes


def test_a_report_comes_back_from_its_bytes_and_has_one_form() -> None:
    found = report(FINDING, in_state("inconclusive", needed=3092))
    assert GateReport.from_bytes(found.to_bytes()) == found
    assert found.to_bytes() == GateReport.from_bytes(found.to_bytes()).to_bytes()
    with pytest.raises(DamagedRelease):
        GateReport.from_bytes(found.to_bytes().replace(b'"looks":4', b'"looks": 4'))


def test_the_json_for_scripts_has_numbers_and_the_verdict() -> None:
    told = json.loads(json.dumps(report(in_state("fail")).to_json(), allow_nan=False))
    assert (told["verdict"], told["findings"][0]["evidence"]["low"]) == ("fail", -0.0125)
    assert set(told["findings"][0]) == set(FINDING.__dataclass_fields__)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "passed"},
        {"severity": "fatal"},
        {"evidence": {"low": float("nan")}},
        {"evidence": {"low": float("inf")}},
        {"needed": 0},
    ],
)
def test_a_finding_that_says_nothing_clear_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StoreError):
        replace(FINDING, **wrong)  # type: ignore[arg-type]


def test_a_report_of_a_newer_schema_is_refused_with_the_way_out() -> None:
    with pytest.raises(StoreError, match="update fedrelease"):
        replace(report(), schema=2)


# predictions


def items() -> Items:
    group = ["north", "south"] * 50
    return make_items(right(100, range(7)), group=group, loss=np.linspace(0, 3, 100).tolist(), parts={"ham": SET})


def test_predictions_come_back_from_their_bytes() -> None:
    before = items()
    after = Items.from_bytes(before.to_bytes())
    for name in ("evaluation", "labels", "group", "known", "parts"):
        assert getattr(after, name) == getattr(before, name)
    assert np.array_equal(after.truth, before.truth) and np.array_equal(after.predicted, before.predicted)
    assert np.allclose(after.loss, before.loss, rtol=1e-3) and after.loss.dtype == np.float32
    assert after.right.sum() == 93


def test_equal_predictions_have_equal_bytes_whatever_arrays_they_came_in() -> None:
    before = items()
    again = replace(before, truth=before.truth[::1].copy(), loss=np.asfortranarray(before.loss))
    assert again.to_bytes() == before.to_bytes() == Items.from_bytes(before.to_bytes()).to_bytes()


def test_an_item_takes_five_bytes_and_six_with_many_sites() -> None:
    def grown_by(sites: int) -> float:
        small, large = (make_items(right(n), group=[f"s{p % sites}" for p in range(n)]) for n in (1000, 3000))
        return (len(large.to_bytes()) - len(small.to_bytes())) / 2000

    assert (round(grown_by(10), 1), round(grown_by(300), 1)) == (5.0, 6.0)


def test_a_huge_loss_stays_finite_and_one_that_is_no_number_stays_so() -> None:
    kept = Items.from_bytes(make_items(right(3), loss=[1e9, float("nan"), float("inf")]).to_bytes()).loss
    assert kept[0] == 65504 and np.isnan(kept[1]) and np.isinf(kept[2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"truth": np.array([0, 1])},
        {"truth": np.full(100, 2)},
        {"predicted": np.full(100, -1)},
        {"group": ("north",)},
        {"known": ("news",)},
        {"evaluation": "abc"},
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StoreError):
        replace(items(), **wrong)  # type: ignore[arg-type]


def test_damaged_predictions_are_refused_whatever_is_wrong_with_them() -> None:
    whole = items().to_bytes()
    arrays = load(whole)
    for broken in (
        b"",
        whole[:40],
        whole + b"x",
        whole.replace(b"north", b"nor\\h"),
        save(arrays),
        save({**arrays, "truth": np.full(100, 9, dtype=np.uint8)}, metadata={"items": "{}"}),
        save({name: array for name, array in arrays.items() if name != "loss"}, metadata={"items": "{}"}),
    ):
        with pytest.raises(DamagedRelease):
            Items.from_bytes(broken)


# page


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.values, self.open = set[str](), list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [name for name, _ in attrs]
        self.open += [tag] if tag not in ("meta", "br") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_runs_nothing() -> None:
    seen = Tags(report_html(report(FINDING, in_state("fail"))))
    assert seen.open == [] and not seen.tags & {"script", "link", "img", "iframe"}
    assert not {"src", "href", "onload"} & set(seen.values) and "url(" not in report_html(report(FINDING))


def test_the_page_says_verdict_numbers_and_what_would_decide() -> None:
    page = report_html(report(in_state("inconclusive", needed=3092)))
    assert "held: quality against stable 0.1.2" in page and "3,092" in page
    assert "low -0.0125" in page and "looked at 4 times" in page and SET in page


def test_names_that_are_markup_or_escapes_stay_text_on_the_page() -> None:
    page = report_html(report(in_state("fail", slice="site:<script>alert(1)</script>", what="\x1b[31m red")))
    assert "<script>" not in page and "&lt;script&gt;" in page and "\x1b" not in page
