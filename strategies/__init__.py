"""Aggregation rules: tensors in, tensors out.

Example::

    strategy = make_strategy(StrategyChoice(name="fedavg", knobs={"weighting": "examples"}))
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields

from fedrelease.errors import ExperimentError
from fedrelease.experiment import StrategyChoice
from fedrelease.strategies.asynchronous import FedAsync, FedBuff
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.feddyn import FedDyn
from fedrelease.strategies.ffa_lora import FFALoRA
from fedrelease.strategies.rolora import RoLoRA
from fedrelease.strategies.scaffold import Scaffold

__all__ = ["STRATEGIES", "Strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "fedasync": FedAsync,
    "fedavg": FedAvg,
    "fedbuff": FedBuff,
    "feddyn": FedDyn,
    "ffa-lora": FFALoRA,
    "rolora": RoLoRA,
    "scaffold": Scaffold,
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
