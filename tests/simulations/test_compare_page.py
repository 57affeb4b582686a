"""docs/compare.md against what the program prints."""

import re
from pathlib import Path

from fedrelease.simulations.compare.report import HEADERS
from fedrelease.simulations.compare.results import Finished, Results
from fedrelease.simulations.compare.verdict import judge

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")


def test_the_table_of_the_page_has_the_columns_of_the_program() -> None:
    assert re.search(r"^" + r" +".join(map(re.escape, HEADERS)) + "$", PAGE, re.MULTILINE)


def test_every_column_of_results_jsonl_is_on_the_page() -> None:
    from compared import make_results

    results: Results = make_results({"0.1": (0.8,), "0.2": (0.7,)})
    run: Finished = results.runs[0]
    assert [key for line in run.lines() for key in line if f"`{key}`" not in PAGE] == []


def test_the_page_says_what_a_verdict_may_begin_with() -> None:
    from compared import make_results

    sentence = judge(make_results({"0.1": (0.8,), "0.2": (0.7,)}), baseline="training.lr=0.1").sentence
    assert sentence.startswith("Not decided: ") and "Not decided" in PAGE
