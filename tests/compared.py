"""Results of a comparison made of numbers, without any run.

Example::

    results = make_results({"1e-3": (0.8, 0.82, 0.81), "1e-4": (0.7, 0.71, None)})      # None = that run failed
"""

from collections.abc import Mapping, Sequence

from fedrelease.experiment import Experiment
from fedrelease.simulations.compare.plan import Plan, Run, make_plan
from fedrelease.simulations.compare.results import Finished, Results
from fedrelease.simulations.report import Row

KEY = "training.lr"


def row(round_: int, accuracy: float, *, sites: int = 2, epsilon: float | None = 7.9, megabytes: int = 1) -> Row:
    """A release; site 0 is 0.02 above the mean, the last one 0.02 below."""
    spread = {f"site-{place}": accuracy + 0.02 - 0.04 * place / (sites - 1) for place in range(sites)}
    return Row(
        version=f"0.1.{round_}" if round_ else "0.0.0",
        verdict="released",
        phase="main",
        round=round_,
        strategy="fedavg",
        accuracy=accuracy,
        worst_site=f"site-{sites - 1}",
        worst_accuracy=accuracy - 0.02,
        epsilon=epsilon,
        bytes_up=megabytes * 1_000_000,
        bytes_down=megabytes * 2_000_000,
        seconds=4.0,
        sites=spread,
    )


def finished(run: Run, accuracy: float | None, **settings: int | None) -> Finished:
    """A run of two releases, or a failed one that has the base only."""
    count = 1 if accuracy is None else 2
    rows = (row(0, 0.5, **settings), row(1, accuracy or 0.0, **settings))[:count]  # type: ignore[arg-type]
    failed = "too few sites <answered>" if accuracy is None else None
    return Finished(run=run, rows=rows, digests=("sha256:0", "sha256:1")[:count], failed=failed)


def plan_of(values: Sequence[str], seeds: int) -> Plan:
    return make_plan(Experiment(), strategies=(), sweeps=(f"{KEY}={','.join(values)}",), seeds=seeds)


def make_results(finals: Mapping[str, Sequence[float | None]], **settings: int | None) -> Results:
    """Variants are values of the learning rate; each has a final accuracy for every seed."""
    plan = plan_of(list(finals), len(next(iter(finals.values()))))
    told = {f"{KEY}={value}": of_seeds for value, of_seeds in finals.items()}
    runs = [finished(run, told[run.variant.name][run.seed - 7], **settings) for run in plan.runs()]
    return Results(plan=plan, runs=tuple(runs))
