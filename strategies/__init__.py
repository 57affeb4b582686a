"""Aggregation rules: tensors in, tensors out.

Example::

    strategy = make_strategy(StrategyChoice(name="fedavg", knobs={"weighting": "examples"}))
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, StrategyChoice
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.fedit import FedIT
from fedrelease.strategies.ffa_lora import FFALoRA
from fedrelease.strategies.flexlora import FlexLoRA
from fedrelease.strategies.flora import FLoRA

__all__ = ["STRATEGIES", "Strategy", "check_ranks", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedit": FedIT,
    "ffa-lora": FFALoRA,
    "flexlora": FlexLoRA,
    "flora": FLoRA,
    "hlora": FlexLoRA,
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


def check_ranks(choice: StrategyChoice, adapter: Adapter) -> None:
    """Refuse a strategy that cannot add up factors of several ranks where sites have them.

    Raises:
        ExperimentError: the text names the strategies that can.
    """
    fewer = {site: rank for site, rank in adapter.site_ranks.items() if rank != adapter.rank}
    if fewer and not STRATEGIES[choice.name].mixed_ranks:
        able = ", ".join(sorted(name for name, kind in STRATEGIES.items() if kind.mixed_ranks))
        raise ExperimentError(
            f"{choice.name} needs every site to have the same rank",
            value=fewer,
            rule=f"with model.adapter.site_ranks phase.strategy is one of {able}",
            hint='set strategy = "flexlora", or leave site_ranks out',
        )
