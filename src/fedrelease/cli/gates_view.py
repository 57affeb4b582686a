"""How a gate report is shown in a terminal: the verdict, then one line for each finding, those that hold the release first.

Example::

    print_gates(report, to_stdout())                         # or emit_json(report.to_json()) with --json
"""

from rich.console import Console
from rich.text import Text

from fedrelease.cli.output import Column, fitting, put
from fedrelease.server.gates.contract import Finding, GateReport
from fedrelease.wording import plain

__all__ = ["print_gates"]

ORDER = ("error", "fail", "inconclusive", "pass", "skipped")


def print_gates(report: GateReport, console: Console) -> None:
    """Print the report; a narrow terminal leaves out the digits that are in the sentence too."""
    console.print(Text(plain(f"{report.version}  {report.sentence}"), style="bold"))
    findings = sorted(report.findings, key=_place)
    columns = [
        Column(header="state", cells=[finding.state for finding in findings]),
        Column(header="gate", cells=[finding.gate for finding in findings]),
        Column(header="slice", cells=[finding.slice for finding in findings]),
        Column(header="against", cells=[finding.against or "-" for finding in findings], rank=2),
        Column(header="severity", cells=[finding.severity for finding in findings], rank=3),
        Column(header="would decide>", cells=[_needed(finding) for finding in findings], rank=1),
        Column(header="what", cells=[finding.what for finding in findings]),
    ]
    if findings:
        put(console, fitting(console, columns))
    if report.evaluation is not None:
        console.print(Text(f"evaluation set {report.evaluation[:16]}, look number {report.looks}", style="dim"))


def _place(finding: Finding) -> tuple[bool, int]:
    """What holds the release first, then by state; within that as the gates said it."""
    return not finding.holds, ORDER.index(finding.state)


def _needed(finding: Finding) -> str:
    return "-" if finding.needed is None else str(finding.needed)
