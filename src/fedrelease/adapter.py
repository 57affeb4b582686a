"""What is trained: LoRA factors on a base, a core, some of the base's own weights or all of them; and how a phase changes it.

Example::

    before = Adapter(rank=8, alpha=16.0)
    AdapterChange(rank=16).of(before)                  # rank 16, alpha 32: alpha / rank, and what was learned, stay
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

from fedrelease.bounds import one_of, positive, require

__all__ = ["ADAPTER_KINDS", "FACTORS", "KEYS", "OWN_WEIGHTS", "TARGETS", "Adapter", "AdapterChange", "trained_words"]

ADAPTER_KINDS = ("bottleneck", "full", "head", "layers", "lora", "lora-sb", "norms", "prefix", "prompt")
KEYS: Mapping[str, tuple[str, ...]] = {
    "bottleneck": ("layers", "rank"),
    "full": (),
    "head": (),
    "layers": ("layers",),
    "lora": ("alpha", "layers", "own_rank", "rank", "rank_stabilised", "residual", "site_ranks", "targets"),
    "lora-sb": ("alpha", "layers", "rank", "targets"),
    "norms": ("layers",),
    "prefix": ("tokens",),
    "prompt": ("tokens",),
}
"""The keys that each kind reads; what the others say means nothing."""
FACTORS = ("lora", "lora-sb")
"""Kinds with factors or cores, by rank, alpha and targets."""
OWN_WEIGHTS = ("full", "layers", "norms")
"""Kinds that train weights of the base itself, which is no longer frozen."""
WORDS: Mapping[str, str] = {
    "bottleneck": "bottlenecks of width {rank} after layers {layers}",
    "full": "every weight",
    "head": "the head alone",
    "layers": "every weight of layers {layers}",
    "lora": "LoRA factors of rank {rank}",
    "lora-sb": "cores of rank {rank}",
    "norms": "the normalisations of layers {layers}",
    "prefix": "{tokens} learned vectors before the text at each layer",
    "prompt": "{tokens} learned vectors before the text",
}
"""What is trained beside the head."""
TARGETS = ("all-linear", "attention")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is trained: LoRA factors on chosen layers, and always the task head; or, by ``kind``, something else.

    ``head`` trains the task head alone. ``norms`` trains weights and biases of the base's normalisations in ``layers``: Zhao et
    al. (2023), https://arxiv.org/abs/2312.11420. ``layers`` trains every weight of these layers; a phase with more of them thaws
    the base gradually: Howard and Ruder (2018), https://arxiv.org/abs/1801.06146. ``bottleneck`` trains a small network of two
    layers, ``rank`` wide, after each of these layers, which begins by adding nothing: Pfeiffer et al. (2020),
    https://arxiv.org/abs/2005.00247. ``prompt`` trains ``tokens`` vectors that stand before the text: Lester et al. (2021),
    https://arxiv.org/abs/2104.08691. ``prefix`` trains as many for each layer, at its entrance: Li and Liang (2021),
    https://arxiv.org/abs/2101.00190, in the form of Liu et al. (2022), https://arxiv.org/abs/2110.07602.

    ``lora-sb`` trains one small core R ``[rank, rank]`` a layer, between the leading singular directions of the layer's own
    weight, which stay and never travel: Balazy et al. (2024), https://arxiv.org/abs/2405.17604. ``full`` is for a base such as
    ``mlp:784-64``, which has no weights to keep, or for all of a pretrained encoder. Keys that a kind does not read say nothing.
    ``layers`` is ``"all"`` or ``"last:k"``; ``targets`` is ``"attention"`` (query and value), ``"all-linear"``, or a comma
    separated list of the base's own module names. ``site_ranks``: sites that train fewer ranks than ``rank``, by name: the
    first rows of each A and columns of each B; the product's factor stays ``alpha / rank``. ``residual``: each layer with LoRA
    factors has a frozen matrix ``[out, in]`` of the state besides, in which ``fedex-lora`` keeps what averaged factors miss;
    every site is sent it. ``rank_stabilised``: the product is multiplied by ``alpha / sqrt(rank)``, so that it stays as large at
    higher ranks: Kalajdzievski (2023), https://arxiv.org/abs/2312.03732. ``own_rank``: each layer with factors has a second pair
    of this rank besides, with the factor of the first, that each site keeps to itself (``feddpa``); 0 = none. Source: Hu et al.
    (2021), https://arxiv.org/abs/2106.09685.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    layers: str = "last:2"
    targets: str = "attention"
    site_ranks: Mapping[str, int] = field(default_factory=dict, hash=False)  # compared all the same
    residual: bool = False
    rank_stabilised: bool = False
    tokens: int = 16
    own_rank: int = 0

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("model.adapter.kind", self.kind, ADAPTER_KINDS)
        require(1 <= self.rank <= 1024, "model.adapter.rank", self.rank, "is between 1 and 1024")
        require(1 <= self.tokens <= 1024, "model.adapter.tokens", self.tokens, "is between 1 and 1024")
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
        fits = self.kind == "lora" or not self.rank_stabilised
        rule = f'is left out with kind = "{self.kind}"'
        require(fits, "model.adapter.rank_stabilised", self.rank_stabilised, rule)
        require(self.kind == "lora" or not self.own_rank, "model.adapter.own_rank", self.own_rank, rule)
        require(0 <= self.own_rank <= 1024, "model.adapter.own_rank", self.own_rank, "is between 0 and 1024; 0 is none")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys beside ``kind`` that mean something."""
        return KEYS[self.kind]

    @property
    def trains_base(self) -> bool:
        """Whether weights of the base itself are trained: they are float32 then, and part of every state."""
        return self.kind in OWN_WEIGHTS

    @property
    def scaling(self) -> float:
        """What the product of factors, or of a core and its bases, is multiplied by."""
        return self.alpha / self.divisor(self.rank)

    def divisor(self, rank: int) -> float:
        """What alpha is divided by at this rank."""
        return math.sqrt(rank) if self.rank_stabilised else rank

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

    ``alpha`` left out grows along with the rank: ``alpha / rank`` (or ``alpha / sqrt(rank)``, with ``rank_stabilised``, which no
    phase changes), by which the product of the factors is multiplied, stays, and every old number means what it meant. Rescaling
    B instead would change all that was learned, and with it momentum, control variates and what sites keep, each by another
    power of the factor.
    """

    kind: str | None = None
    rank: int | None = None
    alpha: float | None = None
    layers: str | None = None
    targets: str | None = None
    site_ranks: Mapping[str, int] | None = None
    residual: bool | None = None
    own_rank: int | None = None

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
        grows = rank != before.rank and rank > 0  # else it is refused below
        alpha = before.alpha * before.divisor(rank) / before.divisor(before.rank) if grows else before.alpha
        return replace(before, **{"alpha": alpha, **self.given})  # type: ignore[arg-type]  # fields of the same names and types


class _Told(Protocol):
    """What an adapter and the facts of a release both say."""

    @property
    def kind(self) -> str:
        """One of ``ADAPTER_KINDS``."""

    @property
    def rank(self) -> int:
        """Where the kind has one."""

    @property
    def layers(self) -> str:
        """``all`` or ``last:k``."""

    @property
    def tokens(self) -> int:
        """Learned vectors before the text."""


def trained_words(adapter: _Told) -> str:
    """What is trained beside the head, such as ``LoRA factors of rank 8``."""
    return WORDS[adapter.kind].format(rank=adapter.rank, layers=adapter.layers, tokens=adapter.tokens)
