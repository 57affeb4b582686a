"""Running a comparison: each run a federation with a store of its own, one after the other on one engine.

Example::

    results = compare(plan, out=Path("comparison"), cache=cache_folder(), workers=None, watch=watch, say=print)

Below ``out``: ``comparison.json`` (the plan), ``engine``, ``search/VARIANT/trial-N`` if there is a search, and
``runs/VARIANT/seed-N``: a store each, and beside it its sites.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedrelease.errors import ExperimentError, FedreleaseError, StoreBusy, StoreError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import from_document
from fedrelease.experiment_file import differences
from fedrelease.files import Json, write_durably
from fedrelease.server.blobs import disk_errors
from fedrelease.server.lock import hold
from fedrelease.server.store import Store
from fedrelease.server.tracking.choice import Tracking
from fedrelease.server.tracking.following import tell_releases
from fedrelease.simulations.compare.backdoors import with_backdoor
from fedrelease.simulations.compare.events import Begun, Ended, Pace, Progress, Tried
from fedrelease.simulations.compare.plan import Plan, Run
from fedrelease.simulations.compare.results import Finished, Results, Trial, best_of, read_run
from fedrelease.simulations.compare.search import search, search_epsilon, tuned
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import NOT_TRACKED, simulate

__all__ = ["Begun", "Ended", "Progress", "Tried", "compare"]

PLAN = "comparison.json"


def compare(
    plan: Plan,
    *,
    out: Path,
    cache: Path,
    workers: int | None,
    watch: Progress,
    say: Callable[[str], None],
    tracking: Tracking = NOT_TRACKED,
) -> Results:
    """Run what is missing of the plan, and read all of it: first the search, if there is one, then the runs with what it found.

    A run that fails is told in the results, and the others go on; typed again, it is tried again. Trackers get a run for each.

    Raises:
        StoreError: ``out`` holds something else, or another comparison; the text says what differs. Nothing was run.
        StoreBusy: another process is at it.
    """
    _check_tells(plan.experiment)
    _check_folder(out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with hold(out / ".lock", of=out):
        _keep_plan(plan, out)
        with Lender(home=out / "engine", workers=workers) as lender:
            one_run = partial(
                _one_run, out=out, cache=cache, lender=lender, watch=watch, say=_once(say), tracking=tracking
            )
            pace = Pace(runs=len(plan.variants) * (len(plan.seeds) + (plan.search.trials if plan.search else 0)))
            trials = search(plan, plan.search, out=out, run=one_run, pace=pace, watch=watch) if plan.search else ()
            found = tuned(plan, trials)
            runs = tuple(
                with_backdoor(run, found, out=out, cache=cache, lender=lender)
                for run in _all_runs(found, out, _only_tuned(found, trials, one_run), pace, watch, tracking)
            )
        return Results(plan=found, runs=runs, trials=trials, search_epsilon=search_epsilon(trials, out))


def _only_tuned(plan: Plan, trials: Sequence[Trial], run: Callable[[Run], Finished]) -> Callable[[Run], Finished]:
    """A variant whose trials all failed is not compared with values that nobody has chosen."""
    if plan.search is None:
        return run
    lost = f"none of the {plan.search.trials} trials of its search ended with an accuracy"
    without = {variant.name for variant in plan.variants if best_of(trials, variant.name) is None}
    return lambda one: Finished(run=one, rows=(), digests=(), failed=lost) if one.variant.name in without else run(one)


def _all_runs(
    plan: Plan, out: Path, make: Callable[[Run], Finished], pace: Pace, watch: Progress, tracking: Tracking
) -> Iterator[Finished]:
    runs = list(plan.runs())
    for number, run in enumerate(runs, 1):
        finished = read_run(run, out)
        seconds = None
        if finished.failed is not None:
            watch(Begun(run=run, number=number, total=len(runs)))
            begun = time.monotonic()
            finished = make(run)
            seconds = time.monotonic() - begun
        elif tracking.choices:  # of a run that was made before anybody tracked
            tell_releases(Store.open(run.store(out)), _experiment_of(run, out), _named(tracking, run, out))
        left = pace.after(seconds)
        watch(Ended(finished=finished, number=number, total=len(runs), seconds=seconds, left=left))
        yield finished


def _one_run(
    run: Run,
    *,
    out: Path,
    cache: Path,
    lender: Lender,
    watch: Progress,
    say: Callable[[str], None],
    tracking: Tracking,
) -> Finished:
    store = run.store(out)
    with disk_errors(store):
        store.parent.mkdir(parents=True, exist_ok=True)
    experiment, named = _experiment_of(run, out), _named(tracking, run, out)
    try:
        simulate(
            experiment, store=store, cache=cache, workers=None, watch=watch, say=say, lender=lender, tracking=named
        )
    except StoreBusy:
        raise
    except FedreleaseError as error:
        if run.trial is not None and isinstance(error, StoreError):
            raise  # a trial that failed is never made again: the disk's fault must not be held against its values
        return read_run(run, out, failed=str(error))
    except Exception as error:  # a rule may fail in any way; the comparison tells it and goes on
        return read_run(run, out, failed=_unforeseen(error, store))
    return read_run(run, out)


def _experiment_of(run: Run, out: Path) -> Experiment:
    return replace(run.experiment, federation=replace(run.experiment.federation, store=str(run.store(out))))


def _named(tracking: Tracking, run: Run, out: Path) -> Tracking:
    """With the run's place in the comparison as its name: ``fedavg seed-7``."""
    parts = run.store(out).relative_to(out).parts[1:]
    return replace(tracking, name=" ".join(parts))


def _unforeseen(error: Exception, store: Path) -> str:
    """The reason in one line; the traceback lies beside the store."""
    log = store.with_name(f"{store.name}.failed.log")
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"unexpected {type(error).__name__}: {error}; see {log}"


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Runs share their data: what one has said the next need not repeat."""
    said: set[str] = set()

    def listen(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return listen


def _check_tells(experiment: Experiment) -> None:
    """Refuse an experiment whose releases nobody measures: hours of work, and nothing to compare."""
    withheld = experiment.privacy.unit != "none" and experiment.privacy.metrics == "withheld"
    if (withheld or experiment.federation.evaluators == 0) and not experiment.data.server_holdout:
        raise ExperimentError(
            "no release of this experiment would have an accuracy",
            value='privacy.metrics = "withheld"' if withheld else "federation.evaluators = 0",
            rule="a comparison needs what sites tell of their hold-outs, or a hold-out of the server's",
            hint="--set data.server_holdout=0.1",
        )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StoreError("a file stands where a folder is needed", value=str(out), hint="name another with --out")
    found = sorted(path.name for path in out.iterdir() if path.name != ".lock") if out.exists() else []
    if found and PLAN not in found:
        raise StoreError(
            f"{out} holds something else than a comparison",
            value=", ".join(found[:5]),
            rule="a comparison begins in a folder that is new or empty",
            hint="name another folder with --out",
        )


def _keep_plan(plan: Plan, out: Path) -> None:
    """Write the plan into a new folder; in an old one, refuse another plan than the one it was begun with."""
    path = out / PLAN
    if not path.exists():
        write_durably(path, json.dumps(plan.to_json(), indent=2).encode() + b"\n")
        return
    differs = _differences(_read(path), plan)
    if differs:
        raise StoreError(
            f"{out} holds another comparison",
            value="; ".join(differs),
            rule="one folder, one comparison: its runs are of one plan",
            hint="name another folder with --out, or type the command that this one was begun with",
        )


def _read(path: Path) -> dict[str, Json]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path} is not a plan: {error}", value=str(path), hint="name another folder") from error
    if not isinstance(document, dict) or not {"experiment", "variants", "seeds"} <= document.keys():
        raise StoreError(f"{path} is not the plan of a comparison", value=str(path), hint="name another folder")
    return document


def _differences(saved: dict[str, Json], plan: Plan) -> list[str]:
    """What a saved plan has otherwise; where stores lie is no difference."""
    now = plan.to_json()
    before = saved["experiment"]
    lines: list[str] = []
    if isinstance(before, dict):
        old = from_document(before)
        lines += differences(_placed(old, plan.experiment), plan.experiment)
    if saved["seeds"] != now["seeds"]:
        lines.append(f"seeds: {_listed(saved['seeds'])} -> {_listed(now['seeds'])}")
    if _names(saved) != _names(now):
        lines.append(f"variants: {', '.join(_names(saved))} -> {', '.join(_names(now))}")
    elif not lines and saved["variants"] != now["variants"]:
        lines.append("variants: the same names stand for other settings")
    if saved.get("search") != now.get("search"):
        lines.append(f"search: {_searched(saved)} -> {_searched(now)}")
    return lines


def _placed(old: Experiment, new: Experiment) -> Experiment:
    return replace(old, federation=replace(old.federation, store=new.federation.store))


def _listed(seeds: Json) -> str:
    return ", ".join(str(seed) for seed in seeds) if isinstance(seeds, list) else str(seeds)


def _searched(document: dict[str, Json]) -> str:
    """A plan's search in one line."""
    found = document.get("search")
    if not isinstance(found, dict):
        return "none"
    return ", ".join(f"{key} {value}" for key, value in found.items())


def _names(document: dict[str, Json]) -> list[str]:
    variants = document["variants"]
    return [str(one.get("name")) for one in variants if isinstance(one, dict)] if isinstance(variants, list) else []
