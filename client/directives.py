"""What a strategy may ask of local training, beyond the experiment.

Example::

    parse_directives({"freeze": "lora_A", "proximal_mu": 0.01}).freeze            # 'lora_A'
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from fedrelease.errors import ModelError
from fedrelease.models.classifier import canonical_name
from fedrelease.private_part import PRIVATE_PARTS

__all__ = ["Directives", "frozen", "parse_directives"]

FACTORS = ("lora_A", "lora_B")
VARIATES = ("feddyn", "scaffold")


@dataclass(frozen=True, kw_only=True)
class Directives:
    """One round's wishes.

    Attributes:
        freeze: which LoRA factor stays as it came, ``lora_A`` or ``lora_B``, in every layer.
        private: the part of the state that the site trains and keeps to itself from round to round, ``lora_B``, ``head`` or
            ``second-adapter``; what goes back in its place is what came. Not with ``tell_fisher`` or ``variate``, which would
            tell of it.
        proximal_mu: strength of the pull towards the state that came: each step's gradient gets ``proximal_mu * (w - w_came)``.
        tell_fisher: the answer carries the diagonal Fisher information of the trained state; refused with privacy.
        tell_loss: the answer tells the mean loss of the state that came on the site's training rows; refused with privacy.
        variate: the control variate that the site keeps between rounds, ``scaffold`` or ``feddyn``.
        alpha: strength of FedDyn's pull; only with ``variate = feddyn``, and always with it.
    """

    freeze: str | None = None
    private: str | None = None
    proximal_mu: float = 0.0
    tell_fisher: bool = False
    tell_loss: bool = False
    variate: str | None = None
    alpha: float = 0.0


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


KNOWN: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "alpha": ("a number above 0", lambda value: _number(value) and value != 0),
    "freeze": (" or ".join(FACTORS), lambda value: value in FACTORS),
    "private": (" or ".join(PRIVATE_PARTS), lambda value: value in PRIVATE_PARTS),
    "proximal_mu": ("a number of at least 0", _number),
    "tell_fisher": ("true or false", lambda value: isinstance(value, bool)),
    "tell_loss": ("true or false", lambda value: isinstance(value, bool)),
    "variate": (" or ".join(VARIATES), lambda value: value in VARIATES),
}
"""What each directive may be, in words and as a check."""

TELLING = {"tell_fisher", "variate"}
"""Directives whose answers have a tensor for each of the state's, the private ones among them."""


def parse_directives(asked: Mapping[str, float | str | bool]) -> Directives:
    """Read them, or refuse: a strategy whose wish is ignored would be another strategy under its name.

    Raises:
        ModelError: a directive is unknown, or its value is; or ``alpha`` and FedDyn's variate come without each other, or
            ``private`` comes with what would tell of the private part.
    """
    for name, value in sorted(asked.items()):
        if name not in KNOWN or not KNOWN[name][1](value):
            raise _refused(f"{name} = {value}", "; ".join(f"{known} is {rule}" for known, (rule, _) in KNOWN.items()))
    if ("alpha" in asked) != (asked.get("variate") == "feddyn"):
        raise _refused(str(dict(asked)), "alpha and variate = feddyn come together")
    if "private" in asked and TELLING & asked.keys():
        raise _refused(str(dict(asked)), f"private comes without {' and '.join(sorted(TELLING))}")
    return Directives(**asked)  # type: ignore[arg-type]  # names and values are checked above


def _refused(value: str, rule: str) -> ModelError:
    return ModelError(
        "the strategy asks for what this site cannot do",
        value=value,
        rule=f"of the directives, {rule}",
        hint="choose another strategy, or update this site",
    )


@contextmanager
def frozen(model: nn.Module, factor: str | None) -> Iterator[None]:
    """Within it, no LoRA factor of this name is trained; afterwards the resident model is what it was.

    Raises:
        ModelError: the model has no such factor.
    """
    chosen = [p for name, p in model.named_parameters() if factor and canonical_name(name).endswith(f".{factor}")]
    if factor and not chosen:
        raise ModelError(
            "the strategy freezes what the model does not have", value=factor, rule="the model's adapter is LoRA"
        )
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in chosen:
            parameter.requires_grad_(True)
