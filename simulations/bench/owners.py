"""Who owns the time that was sampled: sums over stacks.

Example::

    owner("torch.nn.modules.linear.Linear.forward")         # "torch"
    by_owner(stacks)["torch"], largest(stacks, 10)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedrelease.simulations.bench.sampler import Stack

__all__ = ["OWNERS", "Self", "by_owner", "largest", "owner", "short"]

OWNERS = {
    "fedrelease": "fedrelease",
    "torch": "torch, autograd",
    "transformers": "transformers",
    "peft": "peft",
    "opacus": "opacus",
    "other": "other",
}
"""Top package -> what a reader is told; ``other`` is Python itself and every other library."""


@dataclass(frozen=True, kw_only=True)
class Self:
    """Time in which a function was the innermost one in Python, as a share of all."""

    function: str
    share: float


def owner(function: str) -> str:
    """The key of :data:`OWNERS` that a function belongs to."""
    top = function.partition(".")[0]
    return top if top in OWNERS else "other"


def short(function: str) -> str:
    """The name as a reader sees it: our own without the package's name."""
    return function.removeprefix("fedrelease.").replace(".<locals>", "")


def by_owner(stacks: Mapping[Stack, int]) -> dict[str, float]:
    """Each owner's share of the time, by the innermost Python function; the shares add up to 1."""
    found = _shares(stacks, owner)
    return {name: found.get(name, 0.0) for name in OWNERS}


def largest(stacks: Mapping[Stack, int], count: int) -> list[Self]:
    """The functions with the most time of their own, the largest first."""
    found = _shares(stacks, lambda function: function)
    order = sorted(found, key=lambda function: (-found[function], function))
    return [Self(function=function, share=found[function]) for function in order[:count]]


def _shares(stacks: Mapping[Stack, int], name: Callable[[str], str]) -> dict[str, float]:
    total, found = sum(stacks.values()), dict[str, float]()
    for stack, microseconds in stacks.items():
        key = name(stack[-1])
        found[key] = found.get(key, 0.0) + microseconds / total
    return found
