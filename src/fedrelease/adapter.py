"""What is trained: LoRA factors on a base, a core, or every weight; and how a phase of the plan changes it.

Example::

    before = Adapter(rank=8, alpha=16.0)
    AdapterChange(rank=16).of(before)                  # rank 16, alpha 32: alpha / rank, and what was learned, stay
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from fedrelease.bounds import one_of, positive, require

__all__ = ["ADAPTER_KINDS", "TARGETS", "Adapter", "AdapterChange"]

ADAPTER_KINDS = ("full", "head", "lora", "lora-sb")
TARGETS = ("all-linear", "attention")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is trained: LoRA factors on chosen layers, and always the task head; or, with ``kind = "full"``, every weight.

    ``lora-sb`` trains one small core R ``[rank, rank]`` a layer, between the leading singular directions of the layer's own
    weight, which stay and never travel: Balazy et al. (2024), https://arxiv.org/abs/2405.17604. ``head`` trains the task head
    alone, on a base that stays as it is. ``full`` is for a base such as ``mlp:784-64``, which has no weights to keep, or for all
    of a pretrained encoder. With these two the other keys say nothing.
    ``layers`` is ``"all"`` or ``"last:k"``; ``targets`` is ``"attention"`` (query and value), ``"all-linear"``, or a comma
    separated list of the base's own module names. ``site_ranks``: sites that train fewer ranks than ``rank``, by name: the
    first rows of each A and columns of each B; the product's factor stays ``alpha / rank``. ``residual``: each layer with LoRA
    factors has a frozen matrix ``[out, in]`` of the state besides, in which ``fedex-lora`` keeps what averaged factors miss;
    every site is sent it. Source: Hu et al. (2021), https://arxiv.org/abs/2106.09685.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    layers: str = "last:2"
    targets: str = "attention"
    site_ranks: Mapping[str, int] = field(default_factory=dict, hash=False)  # compared all the same
    residual: bool = False

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("model.adapter.kind", self.kind, ADAPTER_KINDS)
        require(1 <= self.rank <= 1024, "model.adapter.rank", self.rank, "is between 1 and 1024")
        positive("model.adapter.alpha", self.alpha)
        fits = self.layers == "all" or re.fullmatch(r"last:[1-9][0-9]{0,3}", self.layers) is not None
        require(fits, "model.adapter.layers", self.layers, 'is "all" or "last:k" with k between 1 and 9999')
        require(bool(self.targets), "model.adapter.targets", self.targets, f"is one of {TARGETS} or module names")
        wrong = {site: rank for site, rank in self.site_ranks.items() if not 1 <= rank <= self.rank}
        require(not wrong, "model.adapter.site_ranks", wrong, f"is between 1 and rank = {self.rank} for every site")
        fits = self.kind == "lora" or not self.site_ranks
        require(fits, "model.adapter.site_ranks", dict(self.site_ranks), f'is left out with kind = "{self.kind}"')
        fits = self.kind == "lora" or not self.residual
        require(fits, "model.adapter.residual", self.residual, f'is left out with kind = "{self.kind}"')

    @property
    def form(self) -> "Adapter":
        """All that decides which tensors a state has, and what they mean: the ranks of single sites do not."""
        return replace(self, site_ranks={})

    def rank_of(self, site: str) -> int:
        """The rank of what this site trains."""
        return self.site_ranks.get(site, self.rank)


@dataclass(frozen=True, kw_only=True)
class AdapterChange:
    """Keys of ``[model.adapter]`` that a phase, and those after it, have otherwise; left out = as in the phase before.

    ``alpha`` left out grows along with the rank: ``alpha / rank``, by which the product of the factors is multiplied, stays, and
    every old number means what it meant. Rescaling B instead would change all that was learned, and with it momentum, control
    variates and what sites keep, each by another power of the factor.
    """

    kind: str | None = None
    rank: int | None = None
    alpha: float | None = None
    layers: str | None = None
    targets: str | None = None
    site_ranks: Mapping[str, int] | None = None
    residual: bool | None = None

    def __post_init__(self) -> None:
        """Check what no other key decides."""
        hint = "give the sites that had fewer ranks the whole rank, such as { a = 8 } with rank 8"
        require(self.site_ranks != {}, "phase.adapter.site_ranks", {}, "names at least one site", hint)

    @property
    def given(self) -> Mapping[str, object]:
        """The keys that are not left out, with their values."""
        pairs = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in pairs if value is not None}

    def of(self, before: Adapter) -> Adapter:
        """The adapter of a phase, from that of the phase before.

        Raises:
            ExperimentError: a key is out of bounds; it is called by its name in ``[model.adapter]``.
        """
        rank = before.rank if self.rank is None else self.rank
        alpha = before.alpha if rank == before.rank else before.alpha * rank / before.rank
        return replace(before, **{"alpha": alpha, **self.given})  # type: ignore[arg-type]  # fields of the same names and types
