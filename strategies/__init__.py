"""Aggregation rules: tensors in, tensors out.

Example::

    strategy = make_strategy(StrategyChoice(name="fedavg", knobs={"weighting": "examples"}))
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Adapter, Privacy, StrategyChoice
from fedrelease.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from fedrelease.strategies.asynchronous import FedAsync, FedBuff
from fedrelease.strategies.clipping import CenteredClip, NormBound
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.feddyn import FedDyn
from fedrelease.strategies.fedit import FedIT
from fedrelease.strategies.fednova import FedNova
from fedrelease.strategies.fedopt import DiLoCo, FedAvgM, FedOpt
from fedrelease.strategies.fedprox import FedProx
from fedrelease.strategies.fedsa_lora import FedSALoRA
from fedrelease.strategies.ffa_lora import FFALoRA
from fedrelease.strategies.fisher import Fisher
from fedrelease.strategies.flexlora import FlexLoRA
from fedrelease.strategies.flora import FLoRA
from fedrelease.strategies.foolsgold import FoolsGold
from fedrelease.strategies.geometric_median import GeometricMedian
from fedrelease.strategies.krum import Bulyan, Krum, MultiKrum
from fedrelease.strategies.merging import Dare, TaskArithmetic, Ties
from fedrelease.strategies.order_statistics import Median, TrimmedMean
from fedrelease.strategies.qfedavg import QFedAvg
from fedrelease.strategies.rolora import RoLoRA
from fedrelease.strategies.scaffold import Scaffold

__all__ = ["STRATEGIES", "Strategy", "check_adapter", "check_strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "bulyan": Bulyan,
    "centered-clip": CenteredClip,
    "dare": Dare,
    "diloco": DiLoCo,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedasync": FedAsync,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedbuff": FedBuff,
    "feddyn": FedDyn,
    "fedit": FedIT,
    "fednova": FedNova,
    "fedopt": FedOpt,
    "fedprox": FedProx,
    "fedsa-lora": FedSALoRA,
    "fedyogi": FedYogi,
    "ffa-lora": FFALoRA,
    "fisher": Fisher,
    "flexlora": FlexLoRA,
    "flora": FLoRA,
    "foolsgold": FoolsGold,
    "geometric-median": GeometricMedian,
    "hlora": FlexLoRA,
    "krum": Krum,
    "median": Median,
    "multi-krum": MultiKrum,
    "norm-bound": NormBound,
    "qfedavg": QFedAvg,
    "rolora": RoLoRA,
    "scaffold": Scaffold,
    "task-arithmetic": TaskArithmetic,
    "ties": Ties,
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


def check_strategy(choice: StrategyChoice, privacy: Privacy) -> None:
    """Refuse a strategy that there is not, and one that asks sites to tell what their privacy forbids.

    Raises:
        ExperimentError: no such strategy or knob, or with privacy the strategy needs metrics without noise.
    """
    tells = make_strategy(choice).tells
    if privacy.unit != "none" and tells:
        raise ExperimentError(
            f"{choice.name} asks every site to tell its {' and '.join(tells)}, and privacy is on",
            value=choice.name,
            rule=f"with privacy.unit = {privacy.unit} nothing that is computed from private rows leaves a site without noise",
            hint='choose a strategy that needs the updates alone, such as fedavg, or set [privacy] unit = "none"',
        )


def check_adapter(choice: StrategyChoice, adapter: Adapter) -> None:
    """Refuse a strategy that needs LoRA where there is none, or cannot add up factors of several ranks where sites have them.

    Raises:
        ExperimentError: the text names the key of the adapter, or the strategies that can.
    """
    if STRATEGIES[choice.name].needs_lora and adapter.kind != "lora":
        raise ExperimentError(
            f"{choice.name} needs LoRA factors, and the adapter has none",
            value=adapter.kind,
            rule=f'with phase.strategy = "{choice.name}" model.adapter.kind is "lora"',
            hint='set [model.adapter] kind = "lora", or choose another strategy, such as fedavg',
        )
    fewer = {site: rank for site, rank in adapter.site_ranks.items() if rank != adapter.rank}
    if fewer and not STRATEGIES[choice.name].mixed_ranks:
        able = ", ".join(sorted(name for name, kind in STRATEGIES.items() if kind.mixed_ranks))
        raise ExperimentError(
            f"{choice.name} needs every site to have the same rank",
            value=fewer,
            rule=f"with model.adapter.site_ranks phase.strategy is one of {able}",
            hint='set strategy = "flexlora", or leave site_ranks out',
        )
