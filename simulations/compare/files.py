"""What a comparison leaves in its folder: a line per release, a table, pictures, a report.

Example::

    made = write_files(results, verdict, out=Path("comparison"), command="fedrelease compare --seeds 3")
    made["report"]                                           # Path('comparison/report.html')
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedrelease.files import Json, write_durably
from fedrelease.simulations.compare.attack_table import attack_csv, has_attacks
from fedrelease.simulations.compare.figures import figures
from fedrelease.simulations.compare.report import report_html
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.searched import search_lines
from fedrelease.simulations.compare.verdict import Line, Verdict

__all__ = ["line_document", "write_files"]


def write_files(results: Results, verdict: Verdict, *, out: Path, command: str) -> Mapping[str, Path]:
    """Write everything, each file whole; what it is -> where it lies."""
    pictures = figures(results, verdict)
    made = {
        "results": ("results.jsonl", _lines(line for run in results.runs for line in run.lines())),
        "summary": ("summary.csv", _csv(verdict)),
        **({"attack-table": ("attacks.csv", attack_csv(results))} if has_attacks(results.plan) else {}),
        **({"trials": ("search.jsonl", _lines(search_lines(results)))} if results.trials else {}),
        **{name.removesuffix(".png"): (name, png) for name, png in pictures.items()},
        "report": ("report.html", report_html(results, verdict, pictures, command=command).encode()),
    }
    for name, data in made.values():
        write_durably(out / name, data)
    return {what: out / name for what, (name, _) in made.items()}


def _lines(documents: Iterable[dict[str, Json]]) -> bytes:
    return "".join(f"{json.dumps(document, allow_nan=False)}\n" for document in documents).encode()


def line_document(line: Line) -> dict[str, Json]:
    """A line of the table as plain values; the columns of ``summary.csv``."""
    against = line.against
    paired = against.paired if against else None
    low, high = line.interval or (None, None)
    worst_low, worst_high = line.worst_interval or (None, None)
    span = (paired.interval if paired else None) or (None, None)
    worst = line.worst_against
    worst_span = (worst.interval if worst else None) or (None, None)
    clustered = (against.clustered if against else None) or (None, None)
    return {
        "variant": line.variant,
        "runs": line.runs,
        "failed": line.failed,
        "accuracy": line.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "worst_site_accuracy": line.worst,
        "worst_site_low": worst_low,
        "worst_site_high": worst_high,
        "difference": paired.difference if paired else None,
        "difference_low": span[0],
        "difference_high": span[1],
        "difference_clustered_low": clustered[0],
        "difference_clustered_high": clustered[1],
        "worst_difference": worst.difference if worst else None,
        "worst_difference_low": worst_span[0],
        "worst_difference_high": worst_span[1],
        "p_value": paired.p_value if paired else None,
        "p_corrected": against.corrected if against else None,
        "hedges_g": paired.effect if paired else None,
        "epsilon": line.epsilon,
        "bytes_total": line.bytes_total,
        "seconds": line.seconds,
    }


def _csv(verdict: Verdict) -> bytes:
    rows = [line_document(line) for line in verdict.lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    return text.getvalue().encode()
