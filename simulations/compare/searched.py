"""What a search says: how it is set up, what it chose, what it would cost where rows are private; as text, lines and values.

Example::

    for line in search_lines(results):
        print(line["variant"], line["trial"], line["values"], line["objective"])
"""

import json
from collections.abc import Iterator, Mapping

from fedrelease.files import Json
from fedrelease.simulations.compare.plan import Plan
from fedrelease.simulations.compare.results import Results, Trial, best_of
from fedrelease.simulations.compare.spaces import Space, Value
from fedrelease.simulations.compare.tuning import OBJECTIVES, Search
from fedrelease.wording import number

__all__ = [
    "SEARCH_HEADERS",
    "cost_sentence",
    "search_cells",
    "search_document",
    "search_lines",
    "search_setting",
    "values_text",
]

SEARCH_HEADERS = ("variant", "chosen", "trial", "objective", "failed")


def values_text(values: Mapping[str, Value]) -> str:
    """``training.lr=0.003 fedadam.lr=0.1``."""
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())


def search_setting(plan: Plan) -> list[tuple[str, str]]:
    """What is searched, for whom, and what is not; nothing without a search."""
    found = plan.search
    if found is None:
        return []
    trials = f"{found.trials} trials of every variant, seed {found.seed}, which no run of the comparison has"
    shared = found.shared()
    pairs = [("search", trials), ("objective", f"{OBJECTIVES[found.objective]} after the last round")]
    pairs += [("for all", _spaces_text(shared))] if shared else []
    for name, spaces in found.spaces.items():
        more = {key: space for key, space in spaces.items() if key not in shared}
        pairs += [(f"only {name}", _spaces_text(more))] if more else []
    kept = [f"{name} ({', '.join(knobs)})" for name, knobs in found.given.items() if knobs]
    return [*pairs, *([("not searched", f"knobs that are given: {'; '.join(kept)}")] if kept else [])]


def _spaces_text(spaces: Mapping[str, Space]) -> str:
    return ", ".join(f"{key}={space}" for key, space in spaces.items())


def search_cells(results: Results) -> list[tuple[str, ...]]:
    """A row for each variant under ``SEARCH_HEADERS``, in the order typed."""
    return [_cells(results, name) for name in results.names()] if results.trials else []


def _cells(results: Results, name: str) -> tuple[str, ...]:
    of = [trial for trial in results.trials if trial.run.variant.name == name]
    best = best_of(of, name)
    failed = f"{sum(trial.objective is None for trial in of)} of {len(of)}"
    if best is None:
        return (name, "-", "-", "-", failed)
    return (name, values_text(best.values), str(best.run.trial), number(best.objective, 4), failed)


def cost_sentence(results: Results) -> str:
    """What the search would have cost real sites; empty without privacy."""
    if results.search_epsilon is None:
        return ""
    delta = min(variant.experiment.privacy.delta for variant in results.plan.variants)
    return (
        f"The search was {len(results.trials)} federations on the same rows. A simulation charges nobody for them; in a real "
        f"federation every trial is paid for, and the site that pays most would have spent epsilon "
        f"{results.search_epsilon:.2f} at delta {delta:g} on the search alone."
    )


def search_lines(results: Results) -> Iterator[dict[str, Json]]:
    """One document a trial, in the order they were made."""
    chosen = {name: best_of(results.trials, name) for name in results.names()}
    for trial in results.trials:
        name = trial.run.variant.name
        yield _line(trial, chosen=trial is chosen[name])


def _line(trial: Trial, *, chosen: bool) -> dict[str, Json]:
    last, digests = trial.finished.last, trial.finished.digests
    return {
        "variant": trial.run.variant.name,
        "trial": trial.run.trial,
        "seed": trial.run.seed,
        "values": dict(trial.values),
        "objective": trial.objective,
        "accuracy": last.accuracy if last else None,
        "worst_accuracy": last.worst_accuracy if last else None,
        "epsilon": last.epsilon if last else None,
        "digest": digests[-1] if last else None,
        "seconds": trial.finished.seconds,
        "chosen": chosen,
        "failed": trial.finished.failed,
    }


def search_document(results: Results) -> dict[str, Json] | None:
    """The search as the command's ``--json`` has it; ``None`` without one."""
    found = results.plan.search
    if found is None:
        return None
    return {
        "trials": found.trials,
        "seed": found.seed,
        "objective": found.objective,
        "epsilon": results.search_epsilon,
        "variants": [_variant_document(results, found, name) for name in results.names()],
    }


def _variant_document(results: Results, found: Search, name: str) -> dict[str, Json]:
    of = [trial for trial in results.trials if trial.run.variant.name == name]
    best = best_of(of, name)
    return {
        "variant": name,
        "space": {key: str(space) for key, space in found.spaces[name].items()},
        "chosen": dict(best.values) if best else None,
        "trial": best.run.trial if best else None,
        "value": best.objective if best else None,
        "failed": [
            {"trial": trial.run.trial, "reason": trial.finished.failed} for trial in of if trial.objective is None
        ],
    }
