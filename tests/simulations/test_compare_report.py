"""Verdicts, tables, pictures and the report, from numbers without any run."""

import csv
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compared import KEY, make_results

from fedrelease.simulations.compare.figures import figures
from fedrelease.simulations.compare.files import write_files
from fedrelease.simulations.compare.report import HEADERS, cells, report_html
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.verdict import Verdict, judge

GOOD, FAIR = f"{KEY}=0.1", f"{KEY}=0.2"
CLEAR = make_results(
    {"0.1": (0.80, 0.81, 0.82, 0.80), "0.2": (0.70, 0.715, 0.72, 0.698), "0.3": (0.6, 0.611, 0.62, 0.6)}
)
OPEN = make_results({"0.1": (0.80, 0.70, 0.78), "0.2": (0.75, 0.72, 0.74)})
FAILED = make_results({"0.1": (0.80, None, 0.82), "0.2": (0.70, 0.71, 0.72), "0.3": (None, None, None)})


def judged(results: Results, baseline: str = GOOD) -> Verdict:
    return judge(results, baseline=baseline)


def test_a_winner_is_named_when_its_corrected_test_against_every_other_says_so() -> None:
    """Against 0.2 the differences are 0.1, 0.095, 0.1 and 0.102: their mean is 0.09925."""
    found = judged(CLEAR)
    assert (found.winner, found.more_seeds, len(found.pairs)) == (GOOD, None, 3)
    assert found.sentence.startswith(
        f"{GOOD} wins against each of the 2 others: +0.0993 over {FAIR} (95 % interval +0.09"
    )
    assert [line.variant for line in found.lines] == [GOOD, FAIR, f"{KEY}=0.3"]


def test_one_pair_that_is_open_leaves_the_whole_undecided() -> None:
    results = make_results({"0.1": (0.80, 0.81, 0.82), "0.2": (0.81, 0.80, 0.81), "0.3": (0.5, 0.511, 0.52)})
    found = judged(results)
    assert (found.winner, found.more_seeds) == (None, None)
    assert "Not decided" in found.sentence and "More than 100 more seeds" in found.sentence


def test_without_a_winner_it_says_how_many_more_seeds_would_tell() -> None:
    """Differences 0.05, -0.02, 0.04: mean 0.0233, s = 0.0379, d = 0.616: a power of 0.8 from 23 seeds on."""
    found = judged(OPEN)
    assert (found.winner, found.more_seeds) == (None, 20)
    assert "About 20 more seeds would." in found.sentence


def test_two_seeds_decide_nothing_however_clear_they_look() -> None:
    found = judged(make_results({"0.1": (0.9, 0.9), "0.2": (0.1, 0.1)}))
    assert found.winner is None
    assert "a test needs at least 3 seeds" in found.sentence


def test_differences_are_to_the_baseline_whoever_is_best() -> None:
    lines = {line.variant: line for line in judged(CLEAR, baseline=FAIR).lines}
    assert lines[FAIR].against is None
    above = lines[GOOD].against
    assert above is not None and above.paired.difference == pytest.approx(0.09925)
    assert above.corrected is not None and above.paired.p_value is not None and above.corrected >= above.paired.p_value


def test_worst_sites_are_paired_by_seed_too() -> None:
    """Every worst site is 0.02 below its mean, so that the difference is that of the means."""
    (best, second, _) = judged(CLEAR).lines
    assert best.worst_against is None
    assert second.worst_against is not None and second.against is not None
    assert second.worst_against.difference == pytest.approx(second.against.paired.difference)
    assert second.worst_against.p_value == pytest.approx(second.against.paired.p_value)


def test_a_variant_whose_runs_failed_stays_in_the_table_and_others_are_paired_by_the_seeds_they_share() -> None:
    found = judged(FAILED)
    lines = {line.variant: line for line in found.lines}
    assert [(line.failed, line.runs) for line in found.lines] == [(1, 3), (0, 3), (3, 3)]
    shared = lines[FAIR].against
    # seeds 7 and 9: (0.70 - 0.80 + 0.72 - 0.82) / 2
    assert shared is not None and (shared.paired.seeds, shared.paired.difference) == (2, pytest.approx(-0.1))
    assert (lines[f"{KEY}=0.3"].accuracy, lines[f"{KEY}=0.3"].against) == (None, None)


def test_nothing_is_decided_when_nothing_finished() -> None:
    found = judged(make_results({"0.1": (None,), "0.2": (None,)}))
    assert found.sentence == "Not decided: no run told an accuracy."
    assert len(cells(found.lines[0])) == len(HEADERS)


def test_costs_are_of_one_run_and_all_its_rounds() -> None:
    (line, *_) = judged(CLEAR).lines
    # two releases of 1 MB up and 2 MB down in 4 s
    assert (line.bytes_total, line.seconds, line.epsilon) == (6_000_000, 8.0, 7.9)
    assert line.worst == pytest.approx(line.accuracy - 0.02 if line.accuracy else None)


def size_of(png: bytes) -> tuple[int, ...]:
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])


MANY = {
    str(0.01 * place + 0.01): (0.5 + 0.02 * place, 0.52 + 0.02 * place, 0.51 + 0.021 * place) for place in range(12)
}


@pytest.mark.parametrize(
    ("results", "names"),
    [
        (CLEAR, {"learning-curves.png", "differences.png", "cost.png", "sites.png"}),
        (FAILED, {"learning-curves.png", "differences.png", "cost.png", "sites.png"}),
        (make_results(MANY, sites=40), {"learning-curves.png", "differences.png", "cost.png", "sites.png"}),
        (
            make_results({"0.1": (0.8,), "0.2": (0.7,)}),
            {"learning-curves.png", "differences.png", "cost.png", "sites.png"},
        ),
        (make_results({"0.1": (0.8,), "0.2": (None,)}), {"learning-curves.png", "cost.png", "sites.png"}),
        (make_results({"0.1": (None,), "0.2": (None,)}), set()),
    ],
    ids=["clear", "failed", "many", "one-seed", "one-left", "none"],
)
def test_any_results_can_be_drawn_and_what_would_be_empty_is_left_out(results: Results, names: set[str]) -> None:
    drawn = figures(results, judged(results, baseline=results.names()[0]))
    assert set(drawn) == names
    assert all(500 < side < 4000 for png in drawn.values() for side in size_of(png)[:1])


def test_equal_results_give_equal_pictures() -> None:
    assert figures(OPEN, judged(OPEN)) == figures(OPEN, judged(OPEN))


class Links(HTMLParser):
    """Everything that a browser would load or run, and the text that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("results", [CLEAR, OPEN, FAILED], ids=["clear", "open", "failed"])
def test_the_report_loads_nothing_from_elsewhere_and_runs_nothing(results: Results) -> None:
    verdict = judged(results)
    html = report_html(results, verdict, figures(results, verdict), command="fedrelease compare --seeds 3")
    page = Links()
    page.feed(html)
    assert len(page.links) == 4 and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert re.search(r"https?:|@import|url\(", re.sub(r"base64,[^\"]*", "", html)) is None
    assert verdict.sentence in page.text and "fedrelease compare --seeds 3" in page.text


def test_the_report_tells_every_failed_run_with_its_reason_as_text() -> None:
    verdict = judged(FAILED)
    html = report_html(FAILED, verdict, {}, command="x")
    assert html.count("<li>") == 4
    assert "too few sites &lt;answered&gt;" in html


def test_the_folder_gets_a_line_per_release_a_row_per_variant_the_pictures_and_the_report(tmp_path: Path) -> None:
    made = write_files(FAILED, judged(FAILED), out=tmp_path, command="x")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made.values()}
    lines = [json.loads(line) for line in made["results"].read_text().splitlines()]
    # 5 runs with two releases, 4 failed ones with the base and the reason
    assert len(lines) == 5 * 2 + 4 * 2
    assert len({frozenset(line) for line in lines}) == 1, "every line has the same keys"
    assert [line["seed"] for line in lines if line["failed"]] == [7, 8, 8, 9]
    rows = list(csv.DictReader(made["summary"].read_text().splitlines()))
    assert (rows[0]["variant"], rows[0]["runs"], rows[0]["failed"]) == (GOOD, "3", "1")
    assert rows[1]["difference"] == str(judged(FAILED).lines[1].against.paired.difference)  # type: ignore[union-attr]
