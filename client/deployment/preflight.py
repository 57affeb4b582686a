"""``fedrelease site check``: whether this site can take part, before it does. Charges nothing; the server learns nothing of rows.

Example::

    for check in preflight(site, experiment, named=True, now=datetime.now(UTC)):
        print(check.status, check.name, check.found)
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from fedrelease.cache import cache_folder
from fedrelease.client.deployment.check import Checks, failed, guarded, passed
from fedrelease.client.deployment.data_checks import (
    Needs,
    OwnRows,
    check_base,
    check_data,
    check_disk,
    check_ledger,
    check_memory,
    own_data,
)
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.identity_checks import check_identity
from fedrelease.client.deployment.network_checks import PATIENCE_S, check_network
from fedrelease.client.deployment.policy_checks import AskedPlan, check_experiment, check_limits, check_policy
from fedrelease.client.deployment.trial import try_training
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base, open_base
from fedrelease.models.precision import chosen_precision
from fedrelease.wording import duration

__all__ = ["preflight"]


def preflight(
    site: SiteFolder, experiment: Experiment, *, named: bool, now: datetime, patience_s: float = PATIENCE_S
) -> Checks:
    """Every check, cheapest first, each as soon as it is done.

    Args:
        experiment: whose base, labels and settings count. named: the user named it; else what the server says that it will ask
            counts, and where it does not say it, this one with the labels that the site's rows have.
        patience_s: how long the server may take to answer.
    """
    yield from check_identity(site, now=now)
    yield from check_network(site, patience_s=patience_s)
    yield check_policy(site)
    asked = AskedPlan(site, now=now, patience_s=patience_s)
    yield from asked.checks()
    if named:
        yield check_experiment(site, "experiment", experiment, base=None, whose="the experiment")
    chosen = experiment if named or asked.plan is None else asked.plan.experiment
    yield from guarded("ledger", lambda: check_ledger(site, chosen))
    yield from _Material(site, chosen, asked, named=named).checks()


class _Material:
    """Base and rows, and what can be tried with them where both are there."""

    def __init__(self, site: SiteFolder, experiment: Experiment, asked: AskedPlan, *, named: bool) -> None:
        self._site, self._experiment, self._asked = site, experiment, asked
        self._servers = not named and asked.plan is not None
        self._known = named or self._servers
        self._base: Base | None = None
        self._rows: OwnRows | None = None

    def checks(self) -> Checks:
        yield from guarded("base", self._check_base)
        yield from guarded("data", self._check_data)
        if self._base is None or self._rows is None:
            yield failed("training", "not tried", rule="it needs the base and the rows", hint="mend those first")
            return
        needs = Needs.of(self._base, self._rows.rows, self._experiment)
        memory = check_memory(needs)
        yield memory
        yield check_disk(self._site, needs)
        if memory.status == "fail":
            yield failed("training", "not tried", rule="it needs the memory", hint=memory.hint)
            return
        base, rows = self._base, self._rows
        yield from guarded("training", lambda: self._train(base, rows))

    def _check_base(self) -> Checks:
        theirs = self._asked.open_base() if self._servers else None
        own = self._site.settings.base or self._experiment.model.base
        self._base = theirs or open_base(own, cache=cache_folder())
        yield check_base(self._base, named=self._known)

    def _check_data(self) -> Checks:
        data = own_data(self._site, self._experiment.data)
        model = self._experiment.model
        self._rows, check = check_data(data, model.labels if self._known else None, task=model.task)
        yield check

    def _train(self, base: Base, rows: OwnRows) -> Checks:
        fitted = _fitted(self._experiment, rows.labels, named=self._known)
        fitted = replace(fitted, data=own_data(self._site, fitted.data))
        site = self._site.settings.site
        trial = try_training(fitted, base, site=site, rows=rows.rows, folder=self._site.folder)
        kind = "private steps, gradients by example right" if trial.private else "steps without privacy"
        found = (
            f"{kind}: {trial.step_s:.2f} s each, so about {duration(trial.round_s)} for the {trial.steps} of a round"
        )
        yield passed("training", f"{found}; nothing was charged")
        yield check_limits(self._site.settings.policy, fitted, trial)


def _fitted(experiment: Experiment, labels: Sequence[str], *, named: bool) -> Experiment:
    """The experiment with everything decided here; one that nobody named gets the labels that the rows have."""
    model = chosen_precision(experiment.model, cache_folder())
    if named:
        return replace(experiment, model=model)
    wanted = tuple(labels) if len(labels) > 1 else (*labels, "other")
    return replace(experiment, model=replace(model, labels=wanted, label_texts=()))
