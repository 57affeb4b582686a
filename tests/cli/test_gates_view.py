"""The gate report in a terminal."""

import io

from rich.console import Console

from fedrelease.cli.gates_view import print_gates
from fedrelease.server.gates.contract import Finding, GateReport


def finding(state: str, **more: object) -> Finding:
    given = {"gate": "quality", "slice": "overall", "against": "stable 0.1.2", "severity": "block", "needed": None}
    return Finding(state=state, what=f"it is {state}", evidence={}, **{**given, **more})  # type: ignore[arg-type]


def printed(*findings: Finding, width: int = 200) -> list[str]:
    report = GateReport(version="0.1.3", digest="sha256:" + "a" * 64, findings=findings, evaluation="b" * 64, looks=7)
    file = io.StringIO()
    print_gates(report, Console(file=file, width=width, markup=False, highlight=False))
    return file.getvalue().splitlines()


def test_what_holds_the_release_comes_first_and_warnings_before_passes() -> None:
    lines = printed(finding("pass"), finding("fail", severity="warn"), finding("inconclusive", needed=773))
    assert lines[0] == "0.1.3  held: quality against stable 0.1.2: it is inconclusive"
    assert [line.split()[0] for line in lines[2:5]] == ["inconclusive", "fail", "pass"]
    assert "773" in lines[2] and lines[-1] == f"evaluation set {'b' * 16}, look number 7"


def test_a_narrow_terminal_leaves_out_columns_and_cuts_no_sentence() -> None:
    text = "\n".join(printed(finding("fail"), width=60))
    assert "it is fail" in text and "severity" not in text


def test_a_name_that_is_an_escape_is_shown_and_not_obeyed() -> None:
    text = "\n".join(printed(finding("fail", slice="site:\x1b[31m")))
    assert "\x1b" not in text and "\\x1b" in text


def test_a_report_without_findings_is_one_line_and_the_set() -> None:
    assert printed()[0] == "0.1.3  passed"
