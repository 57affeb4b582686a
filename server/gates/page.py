"""The gate report as one HTML page that needs nothing else: light, printable, without scripts.

Example::

    Path("gates.html").write_text(report_html(report), encoding="utf-8")
"""

from collections.abc import Iterator, Sequence
from html import escape

from fedrelease.server.gates.contract import Finding, GateReport
from fedrelease.wording import plain

__all__ = ["report_html"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 Georgia, 'Times New Roman', serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { border-left: 4px solid #0072B2; padding: .4rem 1rem; font-size: 1.1rem; }
.verdict.held { border-color: #D55E00; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.4 Helvetica, Arial, sans-serif; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; color: #555; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td.state { white-space: nowrap; font-weight: bold; } tr.quiet td.state { font-weight: normal; color: #555; }
tr.holds td.state { color: #A33F00; }
thead th { border-bottom: 2px solid #222; border-top: 2px solid #222; } tbody tr:last-child td { border-bottom: 2px solid #222; }
tr { break-inside: avoid; }
.evidence { color: #555; font-size: .95em; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } table { font-size: 8pt; } }
"""
HEADERS = ("gate", "slice", "against", "state", "severity", "what", "would decide")
METHOD = """A release gets its channel only if no finding of severity block is fail, error or inconclusive. Quality
is paired: both releases answered the same items, and the candidate must not be worse by more than the margin, with each bound
one-sided at the level of its gate. Undecided is not passed: "would decide" says with how many items four in five equal models
would. McNemar's p stands among the evidence and decides nothing."""


def report_html(report: GateReport) -> str:
    """The whole document. Nothing in it is loaded from elsewhere."""
    title = f"Gates of {report.version}"
    held = " held" if report.held_by else ""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict{held}"><strong>{_text(report.sentence)}</strong></p>',
        "<h2>Findings</h2>",
        f'<div class="wide">{_table(report.findings)}</div>',
        "<h2>How to read it</h2>",
        f"<p>{escape(METHOD)}</p>",
        "<h2>What was judged</h2>",
        f"<p>Release {escape(report.digest)}.<br>{_evaluation(report)}</p>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _text(text: str) -> str:
    """Sites and labels choose names; here they are letters and nothing else."""
    return escape(plain(text))


def _evaluation(report: GateReport) -> str:
    if report.evaluation is None:
        return "No gate looked at single items."
    times = "once" if report.looks == 1 else f"{report.looks} times"
    return f"Evaluation set {escape(report.evaluation)}, looked at {times}."


def _table(findings: Sequence[Finding]) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in HEADERS)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(_rows(findings))}</tbody></table>"


def _rows(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        kind = "holds" if finding.holds else "quiet" if finding.state in ("pass", "skipped") else "warns"
        needed = "" if finding.needed is None else f"{finding.needed:,}"
        cells = [finding.gate, finding.slice, finding.against or "", finding.state, finding.severity]
        shown = "".join(f"<td{' class=state' if at == 3 else ''}>{_text(cell)}</td>" for at, cell in enumerate(cells))
        what = f"<td>{_text(finding.what)}{_evidence(finding)}</td><td>{needed}</td>"
        yield f'<tr class="{kind}">{shown}{what}</tr>\n'


def _evidence(finding: Finding) -> str:
    numbers = "; ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in finding.evidence.items())
    return f'<br><span class="evidence">{_text(numbers)}</span>' if numbers else ""


def _number(value: float | int | bool | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
