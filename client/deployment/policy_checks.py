"""Preflight: what the site's policy allows, and whether what the server is about to ask keeps to it. Nobody is surprised later.

Example::

    asked = AskedPlan(site, now=now, patience_s=10)
    list(asked.checks())                                 # asks the server once, as the site that signs the question
    asked.plan                                           # None where it could not be asked
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import final

import httpx

from fedrelease.client.deployment.check import Check, Checks, failed, guarded, passed, warned
from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.renewal import asked
from fedrelease.client.deployment.rows import base_of
from fedrelease.client.deployment.trial import Trial
from fedrelease.client.policy import Policy, check_plan
from fedrelease.client.policy_words import in_short
from fedrelease.errors import IdentityError, PolicyRefused
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import from_document
from fedrelease.experiment_sections import METRICS_POLICIES
from fedrelease.messages import Request
from fedrelease.models.bases import Base
from fedrelease.wording import amount, duration

__all__ = ["AskedPlan", "ServersPlan", "check_experiment", "check_limits", "check_policy"]

MINE = "[policy] in site.toml: yours alone to change, whatever is asked"
OTHERWISE = "ask the operator for another experiment, or change that rule if you agree to it; `fedrelease site policy`"


@dataclass(frozen=True, kw_only=True)
class ServersPlan:
    """What a server is about to ask: the experiment, and the digest of its base where the server could say it."""

    experiment: Experiment
    base: str | None


def check_policy(site: SiteFolder) -> Check:
    """What it allows, in a sentence; rules that protect nobody are a warning."""
    policy, words = site.settings.policy, in_short(site.settings.policy)
    if policy.unit == "none":
        rule = "unit = none lets a server train without privacy"
        return warned(
            "policy", words, rule=rule, hint='unit = "example" in [policy] of site.toml, unless that is meant'
        )
    if site.settings.noise != "secure":
        rule = "noise that repeats protects nobody"
        return warned("policy", words, rule=rule, hint='noise = "secure" in site.toml, unless this is a demonstration')
    return passed("policy", words)


def check_experiment(site: SiteFolder, name: str, experiment: Experiment, *, base: str | None, whose: str) -> Check:
    """Whether an experiment keeps to the policy; each rule that it breaks is named."""
    try:
        check_plan(site.settings.policy, experiment, base=base, pinned=site.pinned_base())
    except PolicyRefused as refused:
        return failed(name, f"this site would refuse {whose}: {refused.what}", rule=MINE, hint=OTHERWISE)
    return passed(name, f"{whose} keeps to the policy: {_asks(site.settings.policy, experiment)}")


def _asks(policy: Policy, experiment: Experiment) -> str:
    """What will be asked; metrics as they will leave, by the stricter of both rules."""
    privacy, rounds = experiment.privacy, sum(phase.rounds for phase in experiment.phases)
    metrics = max(policy.metrics, privacy.metrics, key=METRICS_POLICIES.index)
    private = "no privacy" if privacy.unit == "none" else f"epsilon {privacy.epsilon:g} in all"
    return f"{rounds} rounds, {private}, metrics {metrics}"


def check_limits(policy: Policy, experiment: Experiment, trial: Trial) -> Check:
    """Whether one round fits the policy's limits, by what was tried on this machine; the numbers are shown here only."""
    took, size = duration(trial.round_s), amount(trial.state_bytes)
    found = f"a round is {trial.steps} steps and about {took} here, its state {size}"
    if trial.steps > policy.steps:
        return failed("limits", found, rule=f"policy.steps: at most {policy.steps} a round", hint=OTHERWISE)
    if trial.state_bytes > policy.megabytes * 1e6:
        return failed("limits", found, rule=f"policy.megabytes: at most {policy.megabytes:g} a message", hint=OTHERWISE)
    if trial.round_s > policy.seconds:
        rule = f"policy.seconds: a round is cut off after {policy.seconds:g}, and what it spent stays spent"
        return warned("limits", found, rule=rule, hint=OTHERWISE)
    if trial.round_s > experiment.federation.deadline_s:
        rule = f"federation.deadline_s: the server waits for {experiment.federation.deadline_s:g} s"
        return warned("limits", found, rule=rule, hint="tell the operator: this site would always be late")
    return passed("limits", found)


@final
class AskedPlan:
    """Asks the server what it is about to ask."""

    def __init__(self, site: SiteFolder, *, now: datetime, patience_s: float) -> None:
        """Nothing is sent yet."""
        self._site, self._now, self._patience_s = site, now, patience_s
        self.plan: ServersPlan | None = None

    def checks(self) -> Checks:
        """One question, one finding; a server that is away is the business of the check of the network."""
        yield from guarded("asked", self._ask)

    def _ask(self) -> Checks:
        try:
            answer = asked(self._site, "plan", now=self._now, patience_s=self._patience_s)
        except IdentityError as error:
            if not isinstance(error.__cause__, httpx.HTTPError):
                raise
            rule, hint = "the server says what its run will ask", "again when it is there, or name the EXPERIMENT here"
            yield warned("asked", "the server could not be asked", rule=rule, hint=hint)
            return
        told = answer.json()
        if not isinstance(told, Mapping) or told.get("experiment") is None:
            hint = "again when it has begun, or name the EXPERIMENT here"
            yield warned("asked", "the server has begun no run", rule="it says what its run will ask", hint=hint)
            return
        self.plan = ServersPlan(experiment=from_document(told["experiment"]), base=_text(told.get("base")))
        yield check_experiment(
            self._site, "asked", self.plan.experiment, base=self.plan.base, whose="what the server asks"
        )

    def open_base(self) -> Base | None:
        """The base that the server asks for, as it lies here; ``None`` where the server did not say which.

        Raises:
            PolicyRefused: the server names one that this site takes from nobody.
            ModelError: it is not here, or it is another one.
        """
        if self.plan is None or self.plan.base is None:
            return None
        request = Request(experiment=self.plan.experiment, version="", round=0, base=self.plan.base, directives={})
        return base_of(self._site, request)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
