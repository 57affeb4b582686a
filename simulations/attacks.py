"""Who is hostile in a simulation, and what hostile sites send instead of what they trained.

Example::

    hostile = hostile_sites(experiment, ("a", "b", "c", "d", "e"))              # one of five with a share of 0.2
    sent = crafted(experiment.attack, {"c": delta}, key="7")["c"]

Knowledge: hostile sites train honestly first, and know the parent's state and, of each other, what they trained; nothing of
honest sites, and not the server's rule. What colluding kinds need of the honest sites' updates they estimate from their own.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fedrelease.attack import Attack
from fedrelease.experiment import Experiment
from fedrelease.update import State

__all__ = ["crafted", "hostile_sites", "numbers_of"]

Craft: TypeAlias = Callable[[Tensor, float, torch.Generator], Tensor]
"""What a site sends of one tensor, from ``[hostile sites, *shape]`` with its own delta first, in float64."""


def hostile_sites(experiment: Experiment, sites: Sequence[str]) -> frozenset[str]:
    """The ``attack.share`` of the sites, rounded to a whole number, whose hash of seed and name is smallest.

    It depends on the seed and the set of names only: the same sites in every round and in a resumed run.
    """
    attack, seed = experiment.attack, experiment.federation.seed
    if attack.kind == "none":
        return frozenset()

    def rank(site: str) -> bytes:
        return hashlib.sha256(f"{seed}\x1fattack\x1f{site}".encode()).digest()

    return frozenset(sorted(sites, key=rank)[: round(attack.share * len(sites))])


def numbers_of(key: str) -> torch.Generator:
    """Random numbers that follow from a text."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(seed % 2**63)


def crafted(attack: Attack, trained: Mapping[str, State], *, key: str) -> dict[str, dict[str, Tensor]]:
    """What each hostile site sends, as a delta in the dtypes of what it trained.

    Args:
        attack: of a kind that changes what is sent.
        trained: each hostile site's honest delta.
        key: other random numbers for every other key.

    A tensor that no hostile site changed stays unchanged, so that a strategy's frozen tensors do not give it away.
    """
    craft, sites = _CRAFTS[attack.kind], sorted(trained)
    found: dict[str, dict[str, Tensor]] = {}
    for site in sites:
        numbers, own = numbers_of(f"{key}\x1f{site}"), trained[site]
        order = [site, *(other for other in sites if other != site)]
        found[site] = {
            name: craft(_stacked(name, order, trained), attack.force, numbers).to(own[name].dtype)
            for name in sorted(own)
        }
    return found


def _stacked(name: str, order: Sequence[str], trained: Mapping[str, State]) -> Tensor:
    return torch.stack([trained[site][name].to(torch.float64) for site in order])


def _sign_flip(deltas: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """The opposite of what was trained, ``strength`` times as long."""
    return -strength * deltas[0]


def _scaling(deltas: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """What was trained, ``strength`` times as long (Bagdasaryan et al., 2020, https://arxiv.org/abs/1807.00459, section 4.2)."""
    return strength * deltas[0]


def _gaussian(deltas: Tensor, strength: float, numbers: torch.Generator) -> Tensor:
    """Noise instead, about ``strength`` times as long as what was trained, tensor by tensor."""
    own = deltas[0]
    return strength * own.square().mean().sqrt() * torch.randn(own.shape, generator=numbers, dtype=own.dtype)


def _little_is_enough(deltas: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """The mean less ``strength`` standard deviations (Baruch et al., 2019, https://arxiv.org/abs/1902.06156, algorithm 3)."""
    return _in_order(deltas).mean(0) - strength * _in_order(deltas).std(0, correction=0)


def _inner_product(deltas: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """The opposite of the mean, ``strength`` times as long (Xie et al., 2019, https://arxiv.org/abs/1903.03936, section 3)."""
    return -strength * _in_order(deltas).mean(0)


def _in_order(deltas: Tensor) -> Tensor:
    """Sorted by value: the sums of colluding sites are then the same bit for bit, whose turn ever it is."""
    return deltas.sort(0).values


def _free_rider(deltas: Tensor, strength: float, numbers: torch.Generator) -> Tensor:
    """Nothing was trained: noise of standard deviation ``strength`` hides it (Fraboni et al., 2021, https://arxiv.org/abs/2006.11901)."""
    own = deltas[0]
    noise = torch.randn(own.shape, generator=numbers, dtype=own.dtype)
    return strength * noise if bool(own.any()) else torch.zeros_like(own)


_CRAFTS: Mapping[str, Craft] = {
    "free-rider": _free_rider,
    "gaussian": _gaussian,
    "inner-product": _inner_product,
    "little-is-enough": _little_is_enough,
    "scaling": _scaling,
    "sign-flip": _sign_flip,
}
