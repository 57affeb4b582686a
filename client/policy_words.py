"""A site's policy in plain words, for the partner who answers for it.

Example::

    in_words(Policy(epsilon=4.0), pinned=None)[1]       # ('epsilon', 'at most 4 in all, over everything that is ever spent ...')
"""

from collections.abc import Sequence

from fedrelease.client.policy import Policy

__all__ = ["in_short", "in_words"]

METRICS = {
    "exact": "as they are, without noise",
    "noised": "with noise that is paid for out of epsilon; nothing of them where there is no privacy",
    "withheld": "nothing leaves",
}


def in_words(policy: Policy, *, pinned: str | None) -> tuple[tuple[str, str], ...]:
    """Each key of ``[policy]`` with what it means now; ``pinned`` is the base that the site trained first."""
    return (
        ("unit", _unit(policy)),
        ("epsilon", f"at most {policy.epsilon:g} in all, over everything that is ever spent on these rows"),
        ("delta", f"at most {policy.delta:g}"),
        ("clip", f"one example's gradient counts with a length of at most {policy.clip:g}"),
        ("metrics", f"of the hold-out: {METRICS[policy.metrics]}"),
        *_tells(policy),
        ("tasks", _listed(policy.tasks)),
        ("bases", _bases(policy, pinned)),
        ("adapters", f"{_listed(policy.adapters)}, of rank {policy.rank} at most"),
        ("directives", f"strategies may ask for: {_listed(policy.directives)}"),
        ("limits", f"{policy.steps} steps and {policy.seconds:g} s a round, {policy.megabytes:g} MB a message"),
    )


def in_short(policy: Policy) -> str:
    """The rules that matter most, in one line."""
    private = "training WITHOUT privacy too" if policy.unit == "none" else "private training only"
    metrics = {"exact": "metrics as they are", "noised": "metrics with noise", "withheld": "no metrics"}[policy.metrics]
    adapters = f"adapters {_listed(policy.adapters)} of rank {policy.rank} at most"
    return f"{private}, epsilon {policy.epsilon:g} in all at most, {metrics}, {adapters}; `fedrelease site policy` says all"


def _unit(policy: Policy) -> str:
    if policy.unit == "none":
        return "a server may train WITHOUT privacy if its experiment says so"
    return "every training is private: what one row adds is hidden by noise"


def _tells(policy: Policy) -> tuple[tuple[str, str], ...]:
    keys = ("tell_examples", "tell_losses", "tell_items", "tell_metrics")
    of = ("the number of rows", "mean losses", "what was said of each hold-out row", "other metrics")
    told = [what for key, what in zip(keys, of, strict=True) if getattr(policy, key)]
    return (("tell", f"where metrics are exact or there is no privacy: {_listed(told)}"),)


def _bases(policy: Policy, pinned: str | None) -> str:
    if policy.bases:
        return f"only {_listed([base[:16] for base in policy.bases])}"
    return (
        f"only {pinned[:16]}, the first that was trained here"
        if pinned
        else "the first that is asked for, then no other"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
