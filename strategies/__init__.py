"""Aggregation rules: tensors in, tensors out.

Example::

    strategy = make_strategy(StrategyChoice(name="fedavg", knobs={"weighting": "examples"}))
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields

from fedrelease.errors import ExperimentError
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies.clipping import CenteredClip, NormBound
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.ffa_lora import FFALoRA
from fedrelease.strategies.foolsgold import FoolsGold
from fedrelease.strategies.geometric_median import GeometricMedian
from fedrelease.strategies.krum import Bulyan, Krum, MultiKrum
from fedrelease.strategies.order_statistics import Median, TrimmedMean

__all__ = ["STRATEGIES", "Strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "bulyan": Bulyan,
    "centered-clip": CenteredClip,
    "fedavg": FedAvg,
    "ffa-lora": FFALoRA,
    "foolsgold": FoolsGold,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "median": Median,
    "multi-krum": MultiKrum,
    "norm-bound": NormBound,
    "trimmed-mean": TrimmedMean,
}


def make_strategy(choice: StrategyChoice) -> Strategy:
    """The strategy that a phase names, with its knobs.

    Raises:
        ExperimentError: no strategy of that name, or it has no such knob.
    """
    if choice.name not in STRATEGIES:
        near = difflib.get_close_matches(choice.name, STRATEGIES, n=1)
        hint = f"did you mean {near[0]}" if near else "choose one of those"
        raise ExperimentError(
            "unknown strategy",
            value=choice.name,
            rule=f"phase.strategy is one of {', '.join(sorted(STRATEGIES))}",
            hint=hint,
        )
    kind = STRATEGIES[choice.name]
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every member is a dataclass
    for knob in choice.knobs:
        if knob not in known:
            raise ExperimentError(
                f"{choice.name} has no knob called {knob}", value=knob, rule=f"its knobs are {', '.join(sorted(known))}"
            )
    return kind(**choice.knobs)  # names are checked above, values by the strategy itself
