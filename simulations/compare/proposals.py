"""What a search tries next: Optuna's tree-structured Parzen estimator, seeded, fed with what earlier trials came to.

Example::

    proposals = Proposals({"training.lr": Range(low=1e-4, high=1e-2, log=True)}, own={"training.lr": 1e-3}, trials=8, seed=7)
    values = proposals.ask()                                    # {'training.lr': 0.001}: the first trial has the own values
    proposals.tell(0.81)

Nothing of it is kept on disk: whoever asks and tells again what was asked and told before gets the same values, bit for bit. So
an interrupted search is taken up by going through its trials once more.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from fedrelease.simulations.compare.spaces import Range, Space, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["DIGITS", "Proposals"]

DIGITS = 4
"""Significant digits of a proposed float: nobody can tell more apart, and a chosen value can be read and typed."""


@final
class Proposals:
    """The trials of one variant, one after the other.

    The first half of the trials is drawn at random from the space, and the rest where values were good.

    Source: Bergstra et al. (2011), "Algorithms for Hyper-Parameter Optimization", section 4; Akiba et al. (2019),
    https://arxiv.org/abs/1907.10902 (Optuna).
    """

    def __init__(self, spaces: Mapping[str, Space], *, own: Mapping[str, object], trials: int, seed: int) -> None:
        """``own``: the values before any search; the first trial has them if they all lie in the space."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=math.ceil(trials / 2))
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._spaces = dict(spaces)
        self._distributions = {key: _distribution(space) for key, space in spaces.items()}
        self._asked: Any = None  # Optuna's trial that waits for its result
        if all(space.holds(own.get(key)) for key, space in spaces.items()):
            self._study.enqueue_trial({key: own[key] for key in spaces})

    def ask(self) -> dict[str, Value]:
        """The next trial's values."""
        self._asked = self._study.ask(self._distributions)
        return {key: _rounded(self._asked.params[key], space) for key, space in self._spaces.items()}

    def tell(self, objective: float | None) -> None:
        """What the values came to, more is better; ``None`` if the trial failed, which the estimator then leaves out."""
        if objective is None:
            self._study.tell(self._asked, state=self._failed)
        else:
            self._study.tell(self._asked, objective)


def _distribution(space: Space) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(space, Range):
        return CategoricalDistribution(space.values)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return IntDistribution(space.low, space.high, log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _rounded(value: Value, space: Space) -> Value:
    """A float of a range in few digits, and still in the range."""
    if not isinstance(space, Range) or isinstance(value, int | str):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)
