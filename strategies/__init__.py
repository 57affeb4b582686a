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
from fedrelease.strategies.fed_sb import FedSB
from fedrelease.strategies.fedavg import FedAvg
from fedrelease.strategies.feddpa import FedDPA
from fedrelease.strategies.feddyn import FedDyn
from fedrelease.strategies.fedex_lora import FedExLoRA
from fedrelease.strategies.fedit import FedIT
from fedrelease.strategies.fednova import FedNova
from fedrelease.strategies.fedopt import DiLoCo, FedAvgM, FedOpt
from fedrelease.strategies.fedper import FedPer
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
from fedrelease.transport import Transport

__all__ = [
    "STRATEGIES",
    "Strategy",
    "check_adapter",
    "check_ranks",
    "check_strategy",
    "check_transport",
    "make_strategy",
]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "bulyan": Bulyan,
    "centered-clip": CenteredClip,
    "dare": Dare,
    "diloco": DiLoCo,
    "fed-sb": FedSB,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedasync": FedAsync,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedbuff": FedBuff,
    "feddpa": FedDPA,
    "feddyn": FedDyn,
    "fedex-lora": FedExLoRA,
    "fedit": FedIT,
    "fednova": FedNova,
    "fedopt": FedOpt,
    "fedper": FedPer,
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


def check_transport(choice: StrategyChoice, transport: Transport) -> None:
    """Refuse a codec for a strategy whose sites send more than their updates.

    Raises:
        ExperimentError: what they send beside them would travel uncoded, and be most of the bytes.
    """
    companions = STRATEGIES[choice.name].companions
    if transport.is_coded and companions:
        able = ", ".join(sorted(name for name, kind in STRATEGIES.items() if not kind.companions))
        raise ExperimentError(
            f"{choice.name} has every site send its {' and '.join(companions)} beside its update, which no codec shortens",
            value=f'transport.codec = "{transport.codec}"',
            rule=f"with a codec phase.strategy is one of {able}",
            hint="leave transport.codec out, or choose one of those strategies",
        )


def check_adapter(choice: StrategyChoice, adapter: Adapter) -> None:
    """Refuse a strategy that this adapter does not give what it needs.

    Raises:
        ExperimentError: it is for another kind of adapter, keeps a residual or a second pair that there is not, would average a
            pair that is to stay with its site, or cannot add up the sites' ranks.
    """
    _check_kind(choice, adapter)
    _check_residual(choice, adapter)
    _check_own_pair(choice, adapter)
    check_ranks(choice, adapter)


def _check_kind(choice: StrategyChoice, adapter: Adapter) -> None:
    wanted = STRATEGIES[choice.name].adapters
    if adapter.kind not in wanted:
        able = ", ".join(sorted(name for name, kind in STRATEGIES.items() if adapter.kind in kind.adapters))
        raise ExperimentError(
            f"{choice.name} does not work with this adapter",
            value=f'model.adapter.kind = "{adapter.kind}"',
            rule=f'with model.adapter.kind = "{adapter.kind}" phase.strategy is one of {able}',
            hint=f'set [model.adapter] kind = "{"lora" if "lora" in wanted else wanted[-1]}", or one of those strategies',
        )


def _check_residual(choice: StrategyChoice, adapter: Adapter) -> None:
    if STRATEGIES[choice.name].writes_residual and not adapter.residual:
        raise ExperimentError(
            f"{choice.name} has nowhere to put what averaged factors miss",
            value="model.adapter.residual = false",
            rule="it writes a residual as large as the layer's weight, out x in float32 numbers for each LoRA layer (384 x 384:"
            " 590 kB), which each release holds and each site is sent; none comes back",
            hint='set [model.adapter] residual = true with kind = "lora", or strategy = "flexlora", which needs none',
        )


def _check_own_pair(choice: StrategyChoice, adapter: Adapter) -> None:
    keeps = STRATEGIES[choice.name].keeps_own_pair
    if keeps and not adapter.own_rank:
        raise ExperimentError(
            f"{choice.name} has no second pair of factors that a site could keep",
            value="model.adapter.own_rank = 0",
            rule="each site trains a pair of its own beside the shared one, of rank own_rank",
            hint='set [model.adapter] own_rank = 2 with kind = "lora"',
        )
    if adapter.own_rank and not keeps:
        able = ", ".join(sorted(name for name, kind in STRATEGIES.items() if kind.keeps_own_pair))
        raise ExperimentError(
            f"{choice.name} would average the pair of factors that each site is to keep",
            value=f"model.adapter.own_rank = {adapter.own_rank}",
            rule=f"with model.adapter.own_rank phase.strategy is {able}",
            hint=f'set strategy = "{able}", or leave own_rank out; a phase may bring it: adapter = {{ own_rank = 2 }}',
        )


def check_ranks(choice: StrategyChoice, adapter: Adapter) -> None:
    """Refuse a strategy that cannot add up factors of several ranks where sites have them.

    Raises:
        ExperimentError: the text names the key of the adapter, or the strategies that can.
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
