"""What a site lets a server ask of it: bounds that the partner sets, and pure functions that compare a request with them.

Example::

    policy = Policy(epsilon=4.0, metrics="withheld")
    check_request(policy, request)             # PolicyRefused: policy.epsilon: at most 4, asked 8
    bounded(policy, request)                   # the same request, its metrics withheld

Guarantees: nothing in a request changes the policy; a request that breaks a bound is refused before its rows are read, its
privacy is charged or a step is computed; of what policy keeps to the site, nothing is in the answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from fedrelease.adapter import ADAPTER_KINDS
from fedrelease.bounds import one_of, positive, require
from fedrelease.errors import ExperimentError, PolicyRefused
from fedrelease.experiment import Experiment
from fedrelease.experiment_sections import METRICS_POLICIES, TASKS, UNITS
from fedrelease.messages import Answer, Request

__all__ = [
    "Policy",
    "bounded",
    "check_bytes",
    "check_plan",
    "check_request",
    "check_steps",
    "read_policy",
    "refusals",
    "told_answer",
]

DIRECTIVES = ("alpha", "freeze", "private", "proximal_mu", "variate")
"""What strategies may ask beside plain training. ``tell_loss`` and ``tell_fisher`` are computed from rows without noise."""
LOOKED_AT = 2
"""Rounds of a phase whose directives are looked at beforehand: those that alternate do so from one round to the next."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The ``[policy]`` table of ``site.toml``. Every default is one that a careful site could keep.

    Attributes:
        unit: the least protection: ``example``, or ``none`` where a server may train without privacy.
        epsilon: at most so much for a whole experiment. The ledger is one for all experiments of this folder, and what was
            spent in any of them counts: no more than this is ever spent on these rows.
        delta: at most. clip: the largest bound on one example's gradient.
        metrics: the most that may be told of the hold-out: ``exact``, ``noised`` or ``withheld``. The stricter one of this and
            the experiment's counts; ``noised`` without privacy is ``withheld``, since there is no epsilon to pay with.
        tell_examples, tell_losses, tell_items, tell_metrics: whether, where metrics are exact or there is no privacy, the number
            of rows, mean losses, what was said of each hold-out row, and metrics besides the confusion matrix leave the site.
        tasks, adapters, directives: those that may be asked for.
        bases: digests of the bases that may be trained; none named = the first one that this site was asked for, and no other.
        rank: of adapters, at most. steps, seconds: of one round. megabytes: of the arrays in one message, at most.
    """

    unit: str = "example"
    epsilon: float = 8.0
    delta: float = 1e-5
    clip: float = 10.0
    metrics: str = "noised"
    tell_examples: bool = True
    tell_losses: bool = True
    tell_items: bool = False
    tell_metrics: bool = True
    tasks: tuple[str, ...] = TASKS
    bases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ("lora", "lora-sb")
    rank: int = 64
    directives: tuple[str, ...] = DIRECTIVES
    steps: int = 10_000
    seconds: float = 3600.0
    megabytes: float = 256.0

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("policy.unit", self.unit, UNITS)
        one_of("policy.metrics", self.metrics, METRICS_POLICIES)
        require(0 < self.delta < 1, "policy.delta", self.delta, "is above 0 and below 1")
        for key in ("epsilon", "clip", "rank", "steps", "seconds", "megabytes"):
            positive(f"policy.{key}", getattr(self, key))
        for key, known in (("tasks", TASKS), ("adapters", ADAPTER_KINDS)):
            for name in getattr(self, key):
                one_of(f"policy.{key}", name, known)
        for name in self.directives:
            one_of("policy.directives", name, (*DIRECTIVES, "tell_fisher", "tell_loss"))


def read_policy(found: object, where: str) -> Policy:
    """The policy in a table of TOML.

    Raises:
        ExperimentError: a key is unknown, of another type or out of bounds: a rule that is misspelt must not go unnoticed.
    """
    if not isinstance(found, Mapping):
        raise ExperimentError(f"{where}: policy is no table", value=found, rule="[policy], then one rule a line")
    known = {field.name: field.default for field in fields(Policy)}
    for key, value in found.items():
        if key not in known:
            rule = f"keys of [policy] are {', '.join(known)}"
            raise ExperimentError(f"{where}: unknown key policy.{key}", value=key, rule=rule)
        if not _fits(value, known[key]):
            raise ExperimentError(
                f"{where}: policy.{key} is of another type", value=value, rule=f"such as {known[key]}"
            )
    values: dict[str, object] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
    }
    return Policy(**values)  # type: ignore[arg-type]  # names and types are checked above


def _fits(value: object, like: object) -> bool:
    if isinstance(like, tuple):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if isinstance(like, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(like, bool)
    return isinstance(value, (int, float) if isinstance(like, float) else type(like))


def check_request(policy: Policy, request: Request, *, pinned: str | None = None) -> None:
    """Go on if the request keeps every rule; ``pinned`` is the base that the site trained first.

    Raises:
        PolicyRefused: it does not; the text names each rule that it breaks, with what was asked.
    """
    _refuse(refusals(policy, request, pinned=pinned))


def check_plan(policy: Policy, experiment: Experiment, *, base: str | None, pinned: str | None = None) -> None:
    """Go on if all rounds of an experiment keep every rule, as far as that is known before the first.

    Raises:
        PolicyRefused: they do not.
    """
    about = _of_experiment(policy, experiment)
    _refuse((*about, *_of_base(policy, base, pinned), *_of_directives(policy, _wishes(experiment))))


def refusals(policy: Policy, request: Request, *, pinned: str | None = None) -> tuple[str, ...]:
    """Each rule that a request breaks: its key in ``site.toml``, the bound, and what was asked."""
    return (
        *_of_experiment(policy, request.experiment),
        *_of_base(policy, request.base, pinned),
        *_of_directives(policy, tuple(request.directives)),
    )


def check_steps(policy: Policy, steps: int) -> None:
    """Go on if a round of so many steps is not too long.

    Raises:
        PolicyRefused: it is. The number of steps tells how many rows there are, so it is not said.
    """
    if steps > policy.steps:
        _refuse((f"policy.steps: at most {policy.steps} a round, asked for more",))


def check_bytes(policy: Policy, size: int) -> None:
    """Go on if the arrays of a message are not too large.

    Raises:
        PolicyRefused: they are.
    """
    if size > policy.megabytes * 1e6:
        _refuse((f"policy.megabytes: at most {policy.megabytes:g}, asked {size / 1e6:.1f}",))


def bounded(policy: Policy, request: Request) -> Request:
    """The request with the stricter of both rules on metrics; itself where the experiment's is strict enough."""
    privacy = request.experiment.privacy
    strictest = max(policy.metrics, privacy.metrics, key=METRICS_POLICIES.index)
    if strictest == privacy.metrics:
        return request
    return replace(request, experiment=replace(request.experiment, privacy=replace(privacy, metrics=strictest)))


def told_answer(policy: Policy, request: Request, answer: Answer, *, step: str) -> Answer:
    """The part of an answer that may leave the site; ``step`` is ``train`` or ``evaluate``.

    With privacy and metrics that are not exact the answer has nothing more to hide: what it has was paid for.
    """
    if step == "evaluate" and request.experiment.privacy.unit == "none" and policy.metrics != "exact":
        return Answer(site=answer.site, metrics={})
    metrics = answer.metrics if policy.tell_metrics else {key: answer.metrics[key] for key in _plain(answer)}
    return replace(
        answer,
        examples=answer.examples if policy.tell_examples else None,
        metrics=metrics if policy.tell_losses else {key: value for key, value in metrics.items() if key != "loss"},
        loss=answer.loss if policy.tell_losses else None,
        items=answer.items if policy.tell_items else None,
    )


def _plain(answer: Answer) -> Sequence[str]:
    """Metrics without which an update is no update."""
    return [key for key in answer.metrics if key == "steps"]


def _refuse(reasons: Sequence[str]) -> None:
    if reasons:
        raise PolicyRefused("; ".join(reasons))


def _of_experiment(policy: Policy, experiment: Experiment) -> tuple[str, ...]:
    return (*_of_privacy(policy, experiment), *_of_model(policy, experiment))


def _of_privacy(policy: Policy, experiment: Experiment) -> Iterator[str]:
    asked = experiment.privacy
    if asked.unit == "none":
        if policy.unit != "none":
            yield f"policy.unit: at least {policy.unit}, asked none"
        return  # the other keys mean nothing then
    for key in ("epsilon", "delta", "clip"):
        most, value = getattr(policy, key), getattr(asked, key)
        if not value <= most:
            yield f"policy.{key}: at most {most:g}, asked {value:g}"


def _of_model(policy: Policy, experiment: Experiment) -> Iterator[str]:
    if experiment.model.task not in policy.tasks:
        yield f"policy.tasks: {_listed(policy.tasks)}, asked {experiment.model.task}"
    for adapter in dict.fromkeys(experiment.phase_adapters):
        if adapter.kind not in policy.adapters:
            yield f"policy.adapters: {_listed(policy.adapters)}, asked {adapter.kind}"
        elif "rank" in adapter.keys and max(adapter.rank, adapter.own_rank) > policy.rank:
            yield f"policy.rank: at most {policy.rank}, asked {max(adapter.rank, adapter.own_rank)}"


def _of_base(policy: Policy, base: str | None, pinned: str | None) -> Iterator[str]:
    allowed = policy.bases or ((pinned,) if pinned else ())
    if base is not None and allowed and base not in allowed:
        why = "one of those named" if policy.bases else "the first that this site trained"
        yield f"policy.bases: only {why} ({_listed([one[:16] for one in allowed])}), asked {base[:16]}"


def _of_directives(policy: Policy, asked: Sequence[str]) -> Iterator[str]:
    for name in sorted(set(asked) - set(policy.directives)):
        yield f"policy.directives: {_listed(policy.directives)}, asked {name[:40]}"


def _wishes(experiment: Experiment) -> tuple[str, ...]:
    from fedrelease.strategies import make_strategy  # rules bring torch, which settings do not need

    found: set[str] = set()
    for phase in experiment.phases:
        strategy = make_strategy(phase.strategy)
        for round in range(1, LOOKED_AT + 1):
            found |= set(strategy.directives(round))
    return tuple(sorted(found))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
