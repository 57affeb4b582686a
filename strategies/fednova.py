"""FedNova: sites that take more local steps do not pull harder for it.

Example::

    FedNova(weighting="examples").aggregate(parent, updates, {})    # updates that tell metrics["steps"]
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrelease.strategies.averaging import check_weighting, moved_by_mean, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.ranges import part
from fedrelease.strategies.told import told
from fedrelease.update import State, Update

__all__ = ["FedNova"]


@dataclass(frozen=True, kw_only=True)
class FedNova(Strategy):
    """The parent plus ``tau * sum_i p_i delta_i / |a_i|``: each site's mean step, and then the mean number of steps.

    ``|a_i|`` is how much of the site's gradients its delta adds up, in steps: the number of steps for plain SGD, more with
    momentum. ``tau = sum_i p_i |a_i|``. With equally many steps everywhere the rule is FedAvg. The paper has no learning rate
    for the server. The normalization is derived for SGD; for an adaptive local optimizer it is a heuristic.

    Args:
        weighting: what ``p_i`` is; as in :class:`fedrelease.strategies.fedavg.FedAvg`.
        momentum: of the sites' optimizer: 0.9 with ``training.optimizer = "sgd"``.

    Guarantees: equal sites that took equally many steps give their own state back.

    Source: Wang et al. (2020), https://arxiv.org/abs/2007.07481, section 4 (normalized averaging); ``|a_i|`` with momentum is
    the sum of the weights that heavy-ball momentum gives to each of the gradients.
    """

    weighting: str = "uniform"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_weighting(self.weighting)
        part("momentum", self.momentum)

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """Sum in float64, one tensor of one site at a time.

        Raises:
            RoundFailed: no update, or a site does not tell how many steps it took.
        """
        shares = weights_of(updates, self.weighting)
        lengths = [self._length(steps) for steps in told(updates, "steps", least=1.0, strategy="fednova")]
        tau = sum(share * length for share, length in zip(shares, lengths, strict=True))
        weights = [tau * share / length for share, length in zip(shares, lengths, strict=True)]
        return {name: moved_by_mean(name, tensor, updates, weights) for name, tensor in parent.items()}, {}

    def _length(self, steps: float) -> float:
        """Sum over the steps' gradients of ``(1 - rho^k) / (1 - rho)``, k = 1 ... steps: in how many steps each one counts."""
        rho = self.momentum
        return float((steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho))
