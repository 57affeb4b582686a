"""What a strategy may ask of local training, beyond the experiment.

Example::

    parse_directives({"freeze": "lora_A"}).freeze            # 'lora_A'
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from fedrelease.errors import ModelError
from fedrelease.models.classifier import canonical_name

__all__ = ["Directives", "frozen", "parse_directives"]

FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True, kw_only=True)
class Directives:
    """One round's wishes. ``freeze``: which LoRA factor stays as it came, ``lora_A`` or ``lora_B``, in every layer."""

    freeze: str | None = None


def parse_directives(asked: Mapping[str, float | str | bool]) -> Directives:
    """Read them, or refuse: a strategy whose wish is ignored would be another strategy under its name.

    Raises:
        ModelError: a directive is unknown, or its value is.
    """
    for name, value in sorted(asked.items()):
        if name != "freeze" or value not in FACTORS:
            raise ModelError(
                "the strategy asks for what this site cannot do",
                value=f"{name} = {value}",
                rule=f"the only directive is freeze, one of {', '.join(FACTORS)}",
                hint="choose another strategy, or update this site",
            )
    return Directives(freeze=str(asked["freeze"]) if "freeze" in asked else None)


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
