"""Server optimizers: any of torch.optim's steps against the mean of the sites' deltas.

Example::

    FedOpt(optimizer="Adam", lr=0.01, options="betas=[0.9, 0.99], eps=1e-3")
    FedAvgM(momentum=0.9)
    DiLoCo()
"""

import inspect
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn, optim

from fedrelease.errors import ExperimentError
from fedrelease.strategies.averaging import check_weighting, mean_delta, narrowed, weights_of
from fedrelease.strategies.contract import Strategy
from fedrelease.strategies.ranges import part, positive
from fedrelease.update import State, Update

__all__ = ["OPTIMIZERS", "DiLoCo", "FedAvgM", "FedOpt"]

OPTIMIZERS: Mapping[str, type[optim.Optimizer]] = {
    "ASGD": optim.ASGD,
    "Adadelta": optim.Adadelta,
    "Adafactor": optim.Adafactor,
    "Adagrad": optim.Adagrad,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": optim.RMSprop,
    "Rprop": optim.Rprop,
    "SGD": optim.SGD,
}
"""All of torch.optim that steps from one gradient of any shape: not LBFGS, Muon (matrices only) and SparseAdam."""
NOT_OPTIONS = frozenset({"params", "lr", "foreach", "maximize", "capturable", "differentiable", "fused"})
"""Arguments of torch's optimizers that are a knob of their own, change no result, or would walk uphill."""
Option: TypeAlias = float | bool | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FedOpt(Strategy):
    """One step of a torch optimizer from the parent, along the pseudo-gradient ``parent - mean of the sites' states``.

    The optimizer's own tensors are the memory, ``<optimizer>.<kind>/<name>``. A phase with another optimizer begins anew.

    Args:
        optimizer: its name in torch.optim.
        lr: the server's learning rate.
        options: the optimizer's further arguments as TOML: ``momentum=0.9, nesterov=true`` or ``betas=[0.9, 0.99]``; what
            is left out is as torch has it.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Guarantees: one optimizer over one tensor at a time, stepping in float64. Memory is float32, or the parent's dtype where that
    is wider, and going on from a saved one is bit for bit the same.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 1 (FedOpt).
    """

    equal_stays_equal: ClassVar[bool] = False

    optimizer: str = "Adam"
    lr: float = 0.01
    options: str = ""
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs; whether the optimizer takes its options is tried out on two numbers."""
        check_weighting(self.weighting)
        positive("lr", self.lr)
        if self.optimizer not in OPTIMIZERS:
            rule = f"optimizer is one of {', '.join(sorted(OPTIMIZERS))}"
            raise ExperimentError("unknown server optimizer", value=self.optimizer, rule=rule, hint="mind capitals")
        options = _parsed(self.options, self.optimizer)
        try:
            _step(OPTIMIZERS[self.optimizer], torch.zeros(2), torch.ones(2), {}, lr=self.lr, **options)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise ExperimentError(
                f"torch's {self.optimizer} does not take these options: {error}",
                value=self.options,
                rule=f"options are arguments of torch.optim.{self.optimizer}",
                hint="mend phase.strategy.options",
            ) from error

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """One optimizer after the other, each over one tensor.

        Raises:
            RoundFailed: no update, or the weights add up to 0 examples.
        """
        weights, options = weights_of(updates, self.weighting), _parsed(self.options, self.optimizer)
        places, prefix = _places(memory, self.optimizer), f"{self.optimizer}."
        state, kept = dict[str, Tensor](), dict[str, Tensor]()
        for name, tensor in parent.items():
            gradient = mean_delta(name, tensor, updates, weights).neg_()
            before = {kind: memory[f"{prefix}{kind}/{name}"] for kind in places.get(name, ())}
            moved, after = _step(OPTIMIZERS[self.optimizer], tensor, gradient, before, lr=self.lr, **options)
            state[name] = moved.to(tensor.dtype)
            kept |= {f"{prefix}{kind}/{name}": narrowed(value, tensor) for kind, value in after.items()}
        return state, kept


def _step(
    kind: type[optim.Optimizer], parent: Tensor, gradient: Tensor, memory: State, **arguments: Option
) -> tuple[Tensor, State]:
    """The parameter after one step in float64, and the optimizer's tensors."""
    parameter = nn.Parameter(parent.to(torch.float64, copy=True))
    parameter.grad = gradient.to(torch.float64)
    settings: dict[str, Any] = arguments  # each optimizer types its own arguments in another way
    optimizer = kind([parameter], **settings)
    if memory:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: dict(memory)}})
    optimizer.step()
    state = optimizer.state_dict()["state"].get(0, {})
    return parameter.detach(), {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _places(memory: State, optimizer: str) -> Mapping[str, Sequence[str]]:
    """The kinds of tensors that this optimizer remembers, by the name of the tensor that they are about."""
    found: dict[str, list[str]] = {}
    for key in memory:
        kind, _, name = key.partition("/")
        if kind.startswith(f"{optimizer}."):
            found.setdefault(name, []).append(kind.removeprefix(f"{optimizer}."))
    return found


def _parsed(text: str, optimizer: str) -> Mapping[str, Option]:
    """Options by name: numbers, truths, and rows of numbers. TOML, so that nothing in it can be run."""
    try:
        document = tomllib.loads(f"options = {{ {text} }}")
    except tomllib.TOMLDecodeError as error:
        raise _refused(text, optimizer, "cannot be read") from error
    options = dict[str, Option]()
    for name, value in document["options"].items():
        if name not in _names(optimizer):
            raise _refused(text, optimizer, f"know no {name}")
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(number, bool | int | float) and math.isfinite(number) for number in numbers):
            raise _refused(text, optimizer, f"have no number in {name}")
        options[name] = tuple(float(number) for number in value) if isinstance(value, list) else value
    if len(document) > 1:
        raise _refused(text, optimizer, "end before the text does")
    return options


def _names(optimizer: str) -> Sequence[str]:
    return sorted(inspect.signature(OPTIMIZERS[optimizer]).parameters.keys() - NOT_OPTIONS)


def _refused(text: str, optimizer: str, what: str) -> ExperimentError:
    return ExperimentError(
        f"the options of the server's optimizer {what}",
        value=text,
        rule=f"options are name=value with commas between them; {optimizer} has {', '.join(_names(optimizer))}",
        hint='write, for instance, options = "weight_decay=0.01"',
    )


@dataclass(frozen=True, kw_only=True)
class FedAvgM(Strategy):
    """SGD with momentum on the server: ``v = momentum * v + (parent - mean)``, the new state is ``parent - lr * v``.

    Args:
        lr: the server's learning rate. With any other than 1, equal sites do not give their own state back.
        momentum: share of the last direction that is kept; 0 and ``lr`` 1 are FedAvg.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`.

    Source: Hsu et al. (2019), https://arxiv.org/abs/1909.06335, section 4.3.
    """

    lr: float = 1.0
    momentum: float = 0.9
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs."""
        part("momentum", self.momentum)
        self._rule()

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedOpt with SGD."""
        return self._rule().aggregate(parent, updates, memory)

    def _rule(self) -> FedOpt:
        options = f"momentum={self.momentum}"
        return FedOpt(optimizer="SGD", lr=self.lr, options=options, weighting=self.weighting)


@dataclass(frozen=True, kw_only=True)
class DiLoCo(Strategy):
    """SGD with Nesterov momentum on the server, for sites that take many local steps with AdamW.

    Args:
        lr: the outer learning rate.
        momentum: the outer momentum, above 0.
        weighting: as in :class:`fedrelease.strategies.fedavg.FedAvg`; the paper's is uniform.

    Source: Douillard et al. (2023), https://arxiv.org/abs/2311.08105, algorithm 1 and section 3.1.
    """

    equal_stays_equal: ClassVar[bool] = False

    lr: float = 0.7
    momentum: float = 0.9
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        """Check the knobs."""
        positive("momentum", self.momentum)
        part("momentum", self.momentum)
        self._rule()

    def aggregate(self, parent: State, updates: Sequence[Update], memory: State) -> tuple[State, State]:
        """As FedOpt with Nesterov's SGD."""
        return self._rule().aggregate(parent, updates, memory)

    def _rule(self) -> FedOpt:
        options = f"momentum={self.momentum}, nesterov=true"
        return FedOpt(optimizer="SGD", lr=self.lr, options=options, weighting=self.weighting)
