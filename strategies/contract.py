"""What a strategy is: directives for the clients, and a pure rule for the server.

Example::

    strategy = FedAvg(weighting="uniform")
    state, memory = strategy.aggregate(parent, updates, {})
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from fedrelease.update import State, Update

__all__ = ["Strategy"]


class Strategy(Protocol):
    """A frozen dataclass with its knobs and these two methods.

    ``aggregate`` gets updates in the order of their sites' names, whatever order they came in, and must read them tensor by
    tensor: ``update.tensors[name]`` reads from disk, and a rule that keeps none of them needs no memory for a thousand sites.
    """

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """What clients are asked to do differently in this round; empty for plain local training."""
        ...

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """The new state and the new memory, from the parent's state, this round's updates and the last memory."""
        ...
