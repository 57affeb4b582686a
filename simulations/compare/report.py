"""The report of a comparison: one HTML file that needs nothing else, for a reader who was not there.

Example::

    html = report_html(results, verdict, figures(results, verdict), command="fedrelease compare --seeds 3")
"""

import base64
import platform
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import torch

from fedrelease import __version__
from fedrelease.experiment_file import to_toml
from fedrelease.simulations.compare.attack_table import attack_cells, attack_headers, has_attacks
from fedrelease.simulations.compare.plan import Plan
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.searched import SEARCH_HEADERS, cost_sentence, search_cells, search_setting
from fedrelease.simulations.compare.verdict import Line, Verdict
from fedrelease.wording import amount, duration, number

__all__ = ["HEADERS", "cells", "report_html", "setting"]

HEADERS = (
    "variant",
    "accuracy",
    "95 % interval",
    "worst site",
    "difference",
    "95 % interval",
    "corrected p",
    "g",
    "epsilon",
    "bytes",
    "time",
    "runs",
)
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 Georgia, 'Times New Roman', serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { border-left: 4px solid #0072B2; padding: .4rem 1rem; font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.4 Helvetica, Arial, sans-serif; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; color: #555; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #222; border-top: 2px solid #222; } tbody tr:last-child td { border-bottom: 2px solid #222; }
table.facts th, table.facts td { text-align: left; white-space: normal; border: 0; vertical-align: top; }
figure { margin: 1.5rem 0; break-inside: avoid; } img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: 12px; white-space: pre-wrap; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .3rem; } }
"""
METHOD = """A seed is the unit of analysis: it decides the split, the first adapter and every cohort, and all variants share it,
so differences are taken seed by seed and judged by Student's paired t test. Batches and noise are drawn for each run by itself.
With privacy.metrics = "noised" what sites tell of their hold-outs has noise too, which widens every interval. The winner is
whoever beats every other variant in the family of all pairs (here {pairs}), two-sided at 0.05 after Holm's step-down correction.
That is stricter than the table, because nobody knew beforehand who would be best. Sites of one run are not independent of each
other; intervals by seed and site (bootstrap over whole seeds) are in summary.csv. Seeds draw from the same rows, so they are not
fully independent either: read p-values near 0.05 with care. How many more seeds would decide is the number for a power of 0.8 at
the observed difference and spread; they are asked for in a new comparison, since looking and then adding seeds would count
chances twice."""
ATTACKED = """Final accuracy, mean over seeds; in brackets the share of the strategy's own with the same seed and no attack.
Took: the share of the server's hold-out rows of other labels that get the backdoor's once its trigger is in them."""
SEARCH_CAPTION = (
    "Chosen: the values of the best trial, with which the variant ran in the comparison. Objective: what that trial came to with "
    "the search's own seed; the best of many is flattered, so judge by the comparison. Failed trials count as used."
)
CAPTIONS = {
    "learning-curves.png": "Accuracy after each round. Line: mean over seeds; band: Student's 95 % interval of that mean.",
    "differences.png": "Final accuracy minus the baseline's, seed by seed. Bar: Student's 95 % interval of the mean difference, "
    "not corrected; a filled mark is significant after Holm's correction.",
    "cost.png": "Final accuracy against what a run costs. Bar: 95 % interval over seeds. Grey steps: the best to be had for at "
    "most so much. Points of equal cost are drawn side by side.",
    "sites.png": "Final accuracy at each site's own hold-out, mean over seeds.",
    "search.png": "The search before the comparison: what each trial came to; filled: the trial whose values were chosen. Every "
    "variant had the same number of trials, with one seed that no run of the comparison has.",
    "attacks.png": "Final accuracy of each strategy with hostile sites of each kind, mean over seeds.",
}


def setting(plan: Plan) -> list[tuple[str, str]]:
    """What every variant of a seed shares, and what differs, in short."""
    shared = plan.experiment
    swept = set(plan.swept)

    def unless_swept(text: str, *keys: str) -> str:
        return f"{text} (varied)" if swept & set(keys) else text

    privacy = shared.privacy
    protected = (
        "none"
        if privacy.unit == "none"
        else f"one {privacy.unit}, epsilon {privacy.epsilon:g}, delta {privacy.delta:g}"
    )
    seeds = f"{plan.seeds[0]} to {plan.seeds[-1]}" if len(plan.seeds) > 1 else f"{plan.seeds[0]}"
    training = f"{shared.training.epochs:g} epoch(s) a round, batches of {shared.training.batch_size}, lr {shared.training.lr:g}"
    return [
        ("variants", f"{len(plan.variants)}: {', '.join(variant.name for variant in plan.variants)}"),
        (
            "seeds",
            f"{len(plan.seeds)} ({seeds}); each decides split, first adapter and cohorts for all variants alike",
        ),
        (
            "runs",
            f"{len(plan.variants) * len(plan.seeds)}, each a federation of {shared.rounds} rounds with a store of its own",
        ),
        ("data", f"{shared.data.source}, partition by {shared.data.partition.by}, {shared.data.holdout:.0%} held out"),
        ("base", f"{shared.model.base}, adapter {shared.model.adapter.kind}"),
        ("training", unless_swept(training, "training.epochs", "training.batch_size", "training.lr")),
        ("privacy", unless_swept(protected, "privacy.unit", "privacy.epsilon", "privacy.delta")),
        *search_setting(plan),
    ]


def cells(line: Line) -> tuple[str, ...]:
    """A line of the table as text, under ``HEADERS``; what does not apply is ``-``."""
    against = line.against
    paired = against.paired if against else None
    return (
        line.variant,
        number(line.accuracy, 4),
        _span(line.interval),
        number(line.worst, 4),
        "-" if paired is None else f"{paired.difference:+.4f}",
        _span(paired.interval if paired else None),
        _p(against.corrected if against else None),
        "-" if paired is None or paired.effect is None else f"{paired.effect:+.2f}",
        number(line.epsilon, 2),
        amount(None if line.bytes_total is None else round(line.bytes_total)),
        duration(line.seconds),
        f"{line.runs - line.failed} of {line.runs}",
    )


def _span(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def report_html(results: Results, verdict: Verdict, pictures: Mapping[str, bytes], *, command: str) -> str:
    """The whole document. Nothing in it is loaded from elsewhere."""
    name = results.plan.experiment.federation.name
    title = f"{name}: {len(results.plan.variants)} variants compared over {len(results.plan.seeds)} seeds"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict"><strong>{escape(verdict.sentence)}</strong></p>',
        *_question(results.plan),
        *_setting(results.plan),
        *_results(verdict),
        *_search(results),
        *_attacks(results),
        *_failures(results),
        *(_figure(picture, png) for picture, png in pictures.items()),
        *_method(verdict),
        *_repeat(results, command),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _question(plan: Plan) -> Iterator[str]:
    what = f"values of {', '.join(plan.swept)}" if plan.swept else "aggregation strategies"
    yield "<h2>Question</h2>"
    yield f"<p>Which of these {escape(what)} gives the most accurate federated model on the sites' own held-out rows, "
    yield f"when data, splits and all else that is not varied{' or searched' if plan.search else ''} are the same, "
    yield "and is the difference "
    yield "more than luck?</p>"


def _setting(plan: Plan) -> Iterator[str]:
    yield '<h2>Setting</h2><table class="facts"><tbody>'
    yield from (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in setting(plan))
    yield "</tbody></table>"


def _results(verdict: Verdict) -> Iterator[str]:
    yield '<h2>Results</h2><div class="wide">'
    yield _table(HEADERS, [cells(line) for line in verdict.lines], _caption(verdict))
    yield "</div>"


def _attacks(results: Results) -> Iterator[str]:
    """Where there are hostile sites."""
    if has_attacks(results.plan):
        yield '<h2>Under attack</h2><div class="wide">'
        yield _table(attack_headers(results), attack_cells(results), ATTACKED)
        yield "</div>"


def _search(results: Results) -> Iterator[str]:
    """What was chosen before the runs above; nothing without a search."""
    rows = search_cells(results)
    if not rows:
        return
    yield '<h2>Search</h2><div class="wide">'
    yield _table(SEARCH_HEADERS, rows, SEARCH_CAPTION)
    yield f"</div><p>{escape(cost_sentence(results))}</p>"
    failed = [trial for trial in results.trials if trial.objective is None]
    yield "<ul>" if failed else ""
    for trial in failed:
        reason = escape(f"{trial.run.variant.name}, trial {trial.run.trial}: {trial.finished.failed}")
        yield f"<li>{reason}</li>"
    yield "</ul>" if failed else ""


def _caption(verdict: Verdict) -> str:
    return (
        f"Final accuracy: mean over sites, then over seeds. Difference: to {verdict.baseline}, paired by seed, p from Student's "
        "t with Holm's correction over this table; g: Hedges' g of the paired differences. Epsilon: worst site. Bytes: from "
        "and to the sites in one run. Time: of one run's rounds on the machine that ran it."
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _failures(results: Results) -> Iterator[str]:
    if not results.failures():
        return
    yield "<h2>Runs that failed</h2><ul>"
    for one in results.failures():
        reason = escape(one.failed or "")
        yield f"<li>{escape(one.run.variant.name)}, seed {one.run.seed}, after {max(0, len(one.rows) - 1)} rounds: {reason}</li>"
    yield "</ul>"


def _figure(name: str, png: bytes) -> str:
    data, caption = base64.b64encode(png).decode(), escape(CAPTIONS[name])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _method(verdict: Verdict) -> Iterator[str]:
    yield f"<h2>Method</h2><p>{escape(METHOD.format(pairs=len(verdict.pairs)))}</p>"


def _repeat(results: Results, command: str) -> Iterator[str]:
    versions = f"fedrelease {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    yield f"<h2>How to repeat it</h2><pre>{escape(command)}</pre>"
    yield f"<p>{escape(versions)}, {escape(platform.machine())}. Equal seeds give equal releases, bit for bit, on processors of "
    yield "one kind; results.jsonl has every digest. Each run's store can be audited with "
    yield "<code>fedrelease log --store STORE</code> and <code>fedrelease verify --store STORE</code>. "
    yield "The experiment that all variants share, with every default filled in:</p>"
    yield f"<pre>{escape(to_toml(results.plan.experiment))}</pre>"
