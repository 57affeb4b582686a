"""From a round's updates to its state: the one place where a round, a check of it and a rebuild of it compute the same.

Example::

    memory = memory_for("fedavgm", parent.manifest.federation.strategy, parent.memory())
    state, memory = aggregate(strategy, parent.state(), updates, memory, version="0.1.3")
    keep_round(spool_folder, KeptRound(eligible=12, begun={"amazon": "0.1.2"}))       # what no update tells
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedrelease import facts
from fedrelease.errors import RoundFailed
from fedrelease.factors import trained_part
from fedrelease.files import write_durably
from fedrelease.strategies import Strategy
from fedrelease.update import State, Update

__all__ = ["KeptRound", "aggregate", "keep_round", "kept_round", "memory_for", "shown_to"]

KEPT = "round.facts"


@dataclass(frozen=True, kw_only=True)
class KeptRound:
    """What a round computed from beside its parent and its updates; it lies in a spool that is kept.

    Attributes:
        eligible: sites that the phase may ask, which some strategies divide by.
        begun: site -> version that it trained from.
    """

    eligible: int
    begun: Mapping[str, str]


def keep_round(spool: Path, kept: KeptRound) -> None:
    """Write it down durably; the same again for a round that is resumed."""
    write_durably(spool / KEPT, facts.to_bytes(kept))


def kept_round(spool: Path) -> KeptRound | None:
    """What :func:`keep_round` wrote; None where it never did.

    Raises:
        DamagedRelease: it is not what was written.
    """
    path = spool / KEPT
    return facts.from_bytes(KeptRound, path.read_bytes()) if path.is_file() else None


def memory_for(strategy: str, before: str, memory: State) -> State:
    """The parent's memory, if the strategy of that name made it; another one's numbers mean nothing to it."""
    return memory if strategy == before else {}


def shown_to(strategy: Strategy, state: State) -> State:
    """The tensors of a state that the strategy is about: without residuals, unless it writes them."""
    return state if strategy.writes_residual else trained_part(state)


def aggregate(
    strategy: Strategy, parent: State, updates: Sequence[Update], memory: State, *, version: str
) -> tuple[State, State]:
    """The state of a version and its strategy's memory, from its parent's state.

    Args:
        updates: in the order of their sites' names, with their staleness where they have any.

    Guarantees: equal arguments give equal bits on the same libraries with as many threads.

    Raises:
        RoundFailed: these updates cannot be aggregated, or the result is not finite.
    """
    before = dict(parent)
    shown = shown_to(strategy, before)
    found, after = strategy.aggregate(shown, updates, memory)
    state = {**{name: tensor for name, tensor in before.items() if name not in shown}, **found}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise RoundFailed(
                f"the aggregate of {version} is not finite", value=name, hint="lower the strategy's learning rate"
            )
    return state, after
