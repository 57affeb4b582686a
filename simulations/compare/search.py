"""Running a search: every trial a federation with a store of its own, proposed by what came before, recorded when it ends.

Example::

    trials = search(plan, plan.search, out=Path("comparison"), run=one_run, pace=pace, watch=watch)
    tuned(plan, trials).variants[0].experiment.training.lr      # the value of the best trial

Below ``out``: ``search/VARIANT/trial-N``, a store each, and beside it ``trial-N.json`` with what came of it. A trial with that
file is over, also if it failed, and never repeated: all variants have the same number of chances.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedrelease.client.ledger import Ledger, total
from fedrelease.errors import StoreError
from fedrelease.files import Json, write_durably
from fedrelease.simulations.compare.events import Begun, Pace, Progress, Tried
from fedrelease.simulations.compare.plan import Plan, Run, Variant
from fedrelease.simulations.compare.proposals import Proposals
from fedrelease.simulations.compare.results import Finished, Trial, best_of, read_run
from fedrelease.simulations.compare.spaces import Value
from fedrelease.simulations.compare.tuning import Search, own_values, with_values
from fedrelease.simulations.simulate import sites_folder

__all__ = ["search", "search_epsilon", "tuned"]

MOST_KINDS = 16
"""Unlike steps that ``prv`` composes, which takes it about a second each; beyond, ``rdp`` bounds them from above at once."""


@dataclass(frozen=True, kw_only=True)
class _Searcher:
    """What all trials share."""

    search: Search
    out: Path
    run: Callable[[Run], Finished]
    pace: Pace
    watch: Progress


def search(
    plan: Plan, wanted: Search, *, out: Path, run: Callable[[Run], Finished], pace: Pace, watch: Progress
) -> tuple[Trial, ...]:
    """All trials: the first of every variant, then the second. Those that are over are read.

    Args:
        run: makes one run, and tells a failure in what it returns. pace: counts the time that runs took.

    Raises:
        StoreError: a record is damaged, or of another search; or the disk refuses. What failed for that is tried again.
    """
    return tuple(_trials(plan, _Searcher(search=wanted, out=out, run=run, pace=pace, watch=watch)))


def _trials(plan: Plan, searcher: _Searcher) -> Iterator[Trial]:
    proposals = {variant.name: _proposals(variant, searcher.search) for variant in plan.variants}
    total_trials = searcher.search.trials * len(plan.variants)
    numbers = ((number, variant) for number in range(1, searcher.search.trials + 1) for variant in plan.variants)
    for place, (number, variant) in enumerate(numbers, 1):
        values = proposals[variant.name].ask()
        trial = _one_trial(searcher, variant, number, values, place=place, total=total_trials)
        proposals[variant.name].tell(trial.objective)
        yield trial


def _proposals(variant: Variant, wanted: Search) -> Proposals:
    spaces = wanted.spaces[variant.name]
    own = own_values(variant.experiment, list(spaces))
    return Proposals(spaces, own=own, trials=wanted.trials, seed=wanted.seed)


def _one_trial(
    searcher: _Searcher, variant: Variant, number: int, values: Mapping[str, Value], *, place: int, total: int
) -> Trial:
    """One trial, read or run, and told to whoever watches."""
    made = with_values(variant.experiment, values)
    made = replace(made, federation=replace(made.federation, seed=searcher.search.seed))
    run = Run(variant=variant, seed=searcher.search.seed, experiment=made, trial=number)
    record, seconds = run.store(searcher.out).with_suffix(".json"), None
    known = _read_record(record, values)
    if known is None:
        searcher.watch(Begun(run=run, number=place, total=total))
        begun = time.monotonic()
        trial = _judged(searcher.run(run), values, searcher.search.objective)
        _write_record(record, trial)
        seconds = time.monotonic() - begun
    else:
        failed = known["failed"] if isinstance(known["failed"], str) else None
        trial = _judged(read_run(run, searcher.out, failed=failed), values, searcher.search.objective)
    left = searcher.pace.after(seconds)
    searcher.watch(Tried(trial=trial, number=place, total=total, seconds=seconds, left=left))
    return trial


def _judged(finished: Finished, values: Mapping[str, Value], objective: str) -> Trial:
    """The trial with its objective; one that nobody measured has failed."""
    last = finished.last
    value = None if last is None else last.accuracy if objective == "accuracy" else last.worst_accuracy
    if last is not None and value is None:
        finished = replace(finished, failed=f"no site told its accuracy, so there is no {objective}")
    return Trial(finished=finished, values=dict(values), objective=value)


def _write_record(path: Path, trial: Trial) -> None:
    document: dict[str, Json] = {"values": dict(trial.values), "failed": trial.finished.failed}
    write_durably(path, json.dumps(document, indent=2).encode() + b"\n")


def _read_record(path: Path, values: Mapping[str, Value]) -> dict[str, Json] | None:
    """What a trial that is over came to; ``None`` for one that is not."""
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise _no_record(path, f"it cannot be read: {error}") from error
    if not isinstance(document, dict) or {"values", "failed"} != document.keys():
        raise _no_record(path, "it is no record of a trial")
    if document["values"] != values:
        raise _no_record(path, f"it is of other values than {json.dumps(dict(values))}")
    return document


def _no_record(path: Path, why: str) -> StoreError:
    return StoreError(
        f"this trial cannot be taken up: {why}",
        value=str(path),
        rule="a search goes on with the values that it would have tried, from the same versions of fedrelease and Optuna",
        hint="name another folder with --out, or restore that file",
    )


def tuned(plan: Plan, trials: tuple[Trial, ...]) -> Plan:
    """The plan with each variant's best values in the place of its own; a variant without any good trial stays as it is."""
    best = {variant.name: best_of(trials, variant.name) for variant in plan.variants}
    chosen = [
        replace(variant, experiment=with_values(variant.experiment, found.values))
        if (found := best[variant.name]) is not None
        else variant
        for variant in plan.variants
    ]
    return replace(plan, variants=tuple(chosen))


def search_epsilon(trials: tuple[Trial, ...], out: Path) -> float | None:
    """What the search would have cost the site that it costs most, in epsilon; ``None`` without privacy.

    Every trial is another federation on the same rows. In a simulation each has ledgers of its own and nobody adds them up; here
    they are: all charges of a site in all trials, composed by the ledger's own rule at the least delta among them.
    """
    charged: dict[str, list[Path]] = {}
    for trial in trials:
        for path in sorted(sites_folder(trial.run.store(out)).glob("*/ledger.jsonl")):
            charged.setdefault(path.parent.name, []).append(path)
    return max((_composed(paths) for paths in charged.values()), default=None)


def _composed(ledgers: list[Path]) -> float:
    entries = [entry for path in ledgers for entry in Ledger(path).entries()]
    if not entries:
        return 0.0
    kinds = {entry.segment()[:2] for entry in entries}
    accountant = entries[0].accountant if len(kinds) <= MOST_KINDS else "rdp"
    return total(entries, delta=min(entry.delta for entry in entries), accountant=accountant)
