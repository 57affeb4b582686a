"""How often the quality gate passes models of which the truth is known, beside two rules that are often used instead.

Example::

    chance_to_pass("gate", n=200, difference=-0.02, discordance=0.05, margin=0.02)     # Chance(passed=0.03.., failed=..)
    lost_points("gate", anchor_looks=20, sequence=Sequence(), seeds=200)               # share lost after 20 rounds, by seed

Chances are sums over all outcomes, not draws; only whole sequences of rounds are drawn.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrelease.server.gates.exact import exact_critical
from fedrelease.server.gates.score import scores
from fedrelease.server.gates.statistics import EXACT_BELOW

__all__ = ["RULES", "Chance", "Sequence", "chance_to_pass", "decided", "lost_points", "slices_passed"]

ALPHA = 0.05
SPREAD = 9.0
"""Standard deviations around the mean that hold all outcomes but 1e-18 of their chance."""
Counts: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Rule: TypeAlias = Callable[[Counts, Counts, int, float, float], tuple[Bools, Bools]]
"""b, c, n, margin, alpha -> which outcomes pass, which are blocked; the others are undecided."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Of a comparison to pass, to fail, and to stay undecided; they add up to 1."""

    passed: float
    failed: float
    undecided: float


@lru_cache(maxsize=64)
def _critical(n: int, margin: float, alpha: float) -> float:
    return exact_critical(n, margin=margin, alpha=alpha) if n < EXACT_BELOW else float(stats.norm.isf(alpha))


def decided(b: Counts, c: Counts, n: int, margin: float, alpha: float = ALPHA) -> tuple[Bools, Bools]:
    """What :func:`fedrelease.server.gates.statistics.compare` decides, for many outcomes at once."""
    passed = scores(b, c, n, -margin) >= _critical(n, margin, alpha)
    failed = scores(c, b, n, margin) >= _critical(n, -margin, alpha)
    return passed, failed


def _not_significant(b: Counts, c: Counts, n: int, margin: float, alpha: float) -> tuple[Bools, Bools]:
    """McNemar at 5 %: blocked where it is significantly worse."""
    p = 2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5)
    worse: Bools = (p < alpha) & (b > c)
    return ~worse, worse


def _not_lower(b: Counts, c: Counts, n: int, margin: float, alpha: float) -> tuple[Bools, Bools]:
    return c >= b, c < b


RULES: Mapping[str, Rule] = {
    "gate": decided,
    "McNemar not significant": _not_significant,
    "not lower": _not_lower,
}


def chance_to_pass(rule: str, *, n: int, difference: float, discordance: float, margin: float) -> Chance:
    """Of a candidate whose true difference is known, summed over all b and c.

    Args:
        difference: true accuracy of the candidate minus that of what serves.
        discordance: share of items on which they differ.
    """
    wrong, right = (discordance - difference) / 2, (discordance + difference) / 2
    b, c = (axis.ravel() for axis in np.meshgrid(_likely(n, wrong), _likely(n, right), indexing="ij"))
    b, c = b[b + c <= n], c[b + c <= n]
    chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [wrong, right, 1 - discordance])
    passed, failed = (float(chance[which].sum()) for which in RULES[rule](b, c, n, margin, ALPHA))
    return Chance(passed=passed, failed=failed, undecided=max(0.0, 1 - passed - failed))


def _likely(n: int, share: float) -> Counts:
    middle, away = n * share, SPREAD * math.sqrt(n * share * (1 - share)) + SPREAD
    return np.arange(max(0, math.floor(middle - away)), min(n, math.ceil(middle + away)) + 1)


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Rounds that each end a little worse than what serves; a candidate that does not pass is dropped.

    Attributes:
        step: true difference of each candidate to what serves then.
        items: of the one evaluation set that all rounds share.
    """

    rounds: int = 20
    step: float = -0.005
    discordance: float = 0.05
    items: int = 2000
    accuracy: float = 0.9
    margin: float = 0.02


def lost_points(rule: str, *, anchor_looks: int | None, sequence: Sequence, seeds: int) -> NDArray[np.float64]:
    """True accuracy lost after all rounds, as a share, for each seed: what serves at the end against what served first.

    ``anchor_looks``: among how many rounds the anchor's alpha is divided; None = there is no anchor.
    """
    return np.array([_lost(RULES[rule], anchor_looks, sequence, seed) for seed in range(seeds)])


def _lost(rule: Rule, anchor_looks: int | None, sequence: Sequence, seed: int) -> float:
    generator = np.random.default_rng(seed)
    first = generator.random(sequence.items) < sequence.accuracy
    stable, accuracy = first, sequence.accuracy
    for _ in range(sequence.rounds):
        candidate = _stepped(stable, accuracy, sequence, generator)
        others = [(stable, ALPHA)] + ([(first, ALPHA / anchor_looks)] if anchor_looks else [])
        if all(_passes(rule, other, candidate, sequence.margin, alpha) for other, alpha in others):
            stable, accuracy = candidate, accuracy + sequence.step
    return sequence.accuracy - accuracy


def _stepped(stable: Bools, accuracy: float, sequence: Sequence, generator: np.random.Generator) -> Bools:
    """A candidate of which each answer turns with the chances that make the true step and discordance."""
    turns_wrong = (sequence.discordance - sequence.step) / 2 / accuracy
    turns_right = (sequence.discordance + sequence.step) / 2 / (1 - accuracy)
    drawn = generator.random(len(stable))
    return np.where(stable, drawn >= turns_wrong, drawn < turns_right)


def _passes(rule: Rule, before: Bools, after: Bools, margin: float, alpha: float) -> bool:
    b, c = np.array([(before & ~after).sum()]), np.array([(~before & after).sum()])
    return bool(rule(b, c, len(before), margin, alpha)[0][0])


def slices_passed(*, difference: float, classes: int, items: int, draws: int) -> Mapping[str, float]:
    """How often a model passes: judged as a whole; with classes that must not fail; with classes that must all pass.

    Args:
        difference: true, alike in every class.
        items: of each class; the whole has all of them. Margins are the gate's defaults, 2 and 5 points; discordance 5 %.
    """
    shares = [(0.05 - difference) / 2, (0.05 + difference) / 2, 0.95]
    drawn = np.random.default_rng(0).multinomial(items, shares, size=(draws, classes))
    whole, _ = decided(drawn[..., 0].sum(1), drawn[..., 1].sum(1), items * classes, 0.02)
    passed, failed = decided(drawn[..., 0], drawn[..., 1], items, 0.05)
    return {
        "whole": float(whole.mean()),
        "no class fails": float((whole & ~failed.any(1)).mean()),
        "every class passes": float((whole & passed.all(1)).mean()),
        "a class fails": float(failed.any(1).mean()),
    }
