"""What a strategy is: directives for the clients, and a pure rule for the server.

Example::

    strategy = FedAvg(weighting="uniform")
    state, memory = strategy.aggregate(parent, updates, {})
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from fedrelease.adapter import ADAPTER_KINDS
from fedrelease.errors import RoundFailed
from fedrelease.update import State, Update

__all__ = ["Strategy", "check_enough"]


class Strategy(ABC):
    """A frozen dataclass with its knobs, the rule, and what the rule promises. Nothing is kept in it between rounds.

    ``aggregate`` gets updates in the order of their sites' names, whatever order they came in, and must read them tensor by
    tensor: ``update.tensors[name]`` reads from disk, and a rule that keeps none of them needs no memory for a thousand sites.

    Attributes:
        equal_stays_equal: one site alone, or sites that all ended alike, give their own state back. Tested for every rule
            that says so, in its first round with an empty memory and its default knobs.
        same_product: that state is the same as a model only: each LoRA layer's product ``B A`` is the site's, from other factors.
        mixed_ranks: LoRA factors of updates may have lower ranks than the parent's.
        adapters: the kinds of adapter (``model.adapter.kind``) that it works with.
        writes_residual: the rule moves the residual of each LoRA layer (``[model.adapter] residual``), and cannot do without.
            Others are not shown residuals, which stay as they are; no update has any.
        keeps_own_pair: each site keeps a second pair of LoRA factors (``[model.adapter] own_rank``) to itself, and the rule
            cannot do without. Others would average it.
        companions: kinds of tensors that sites send beside the state, and the server too if it broadcasts any: one for each of
            its tensors and of its shape, named ``<kind>/<name>``. Control variates, for instance.
        tells: metrics of private rows that sites must tell beside their update, without noise. An experiment with privacy
            refuses a strategy that has any.
        from_newest: deltas lead away from the round's parent, even those of sites that trained from an older release.
    """

    equal_stays_equal: ClassVar[bool] = True
    same_product: ClassVar[bool] = False
    mixed_ranks: ClassVar[bool] = False
    adapters: ClassVar[tuple[str, ...]] = ADAPTER_KINDS
    writes_residual: ClassVar[bool] = False
    keeps_own_pair: ClassVar[bool] = False
    companions: ClassVar[tuple[str, ...]] = ()
    tells: ClassVar[tuple[str, ...]] = ()
    from_newest: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """The least number of updates that the rule can work with."""
        return 1

    def waits_for(self, asked: int) -> int:
        """How many of ``asked`` sites under way end a round. Fewer than all: the others' updates come in later rounds."""
        return asked

    def among(self, sites: int) -> "Strategy":
        """The rule for a federation of so many sites, of whom a round may ask some; most do not mind."""
        del sites
        return self

    def directives(self, round: int) -> Mapping[str, float | str | bool]:
        """What clients are asked to do differently in this round; empty for plain local training."""
        del round
        return {}

    def broadcast(self, parent: State, memory: State) -> State:
        """The companions that go to the sites with the parent's state; empty where there are none."""
        del parent, memory
        return {}

    @abstractmethod
    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """The new state and the new memory, from the parent's state, this round's updates and the last memory.

        Guarantees: the state has the parent's names, shapes and dtypes; neither argument is changed; equal arguments give equal
        bits. Memory holds tensors only, and an empty one begins anew.

        Raises:
            RoundFailed: these updates cannot be aggregated; the text says why and what would.
        """


def check_enough(strategy: Strategy, name: str, updates: Sequence[Update]) -> None:
    """Refuse fewer updates than the rule needs.

    Raises:
        RoundFailed: the text says how many it needs.
    """
    if len(updates) < strategy.least:
        raise RoundFailed(
            f"{name} cannot work with {len(updates)} updates",
            value=[update.site for update in updates],
            rule=f"{name} with these knobs needs at least {strategy.least}",
            hint="ask more sites (phase.sites_per_round), or choose a rule that needs fewer, such as fedavg",
        )
