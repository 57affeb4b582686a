"""Each strategy under each attack: accuracy, what is kept of that without an attack, and how well a backdoor took.

Example::

    under_attack(results)["median", "sign-flip"].kept        # 0.99: the mean over seeds, each against its own clean run

It is there where any variant has hostile sites: by the experiment's section ``[attack]``, or by ``--attacks``.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from fedrelease.files import Json
from fedrelease.simulations.compare.plan import ATTACK, Plan, Variant
from fedrelease.simulations.compare.results import Results
from fedrelease.wording import number

__all__ = [
    "UnderAttack",
    "attack_cells",
    "attack_csv",
    "attack_documents",
    "attack_headers",
    "has_attacks",
    "strategy_of",
    "under_attack",
]


@dataclass(frozen=True, kw_only=True)
class UnderAttack:
    """A strategy under one kind of attack, as means over the seeds that finished; ``None`` where nothing tells.

    Attributes:
        strategy: the variant's name without its attack.
        accuracy_low, accuracy_high: of the seeds.
        kept: accuracy as a share of that of the same seed without an attack; ``kept_low`` of the worst seed.
        backdoor: the share of the server's hold-out rows of other labels that get the target's with the trigger in them.
    """

    strategy: str
    attack: str
    seeds: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    kept: float | None
    kept_low: float | None
    backdoor: float | None

    def to_json(self) -> dict[str, Json]:
        """As one document."""
        return dict(vars(self))


def has_attacks(plan: Plan) -> bool:
    """Whether any variant has hostile sites."""
    return any(variant.experiment.attack.kind != "none" for variant in plan.variants)


def strategy_of(variant: Variant) -> str:
    """The variant's name without its attack."""
    words = [word for word in variant.name.split(" ") if not word.startswith(f"{ATTACK}=")]
    return " ".join(words) or "the experiment's own"


def under_attack(results: Results) -> Mapping[tuple[str, str], UnderAttack]:
    """By strategy and kind of attack, in the plan's order; empty where no variant has hostile sites."""
    variants = results.plan.variants if has_attacks(results.plan) else ()
    clean = {strategy_of(one): results.finals(one.name) for one in variants if one.experiment.attack.kind == "none"}
    return {(strategy_of(one), one.experiment.attack.kind): _under(results, one, clean) for one in variants}


def _under(results: Results, variant: Variant, clean: Mapping[str, Mapping[int, float]]) -> UnderAttack:
    finals, before = results.finals(variant.name), clean.get(strategy_of(variant), {})
    kept = [finals[seed] / before[seed] for seed in finals if before.get(seed)]
    taken = [one.backdoor for one in results.of(variant.name) if one.last is not None and one.backdoor is not None]
    return UnderAttack(
        strategy=strategy_of(variant),
        attack=variant.experiment.attack.kind,
        seeds=len(finals),
        accuracy=mean(finals.values()) if finals else None,
        accuracy_low=min(finals.values(), default=None),
        accuracy_high=max(finals.values(), default=None),
        kept=mean(kept) if kept else None,
        kept_low=min(kept, default=None),
        backdoor=mean(taken) if taken else None,
    )


def attack_headers(results: Results) -> list[str]:
    """``strategy``, and one for each kind of attack."""
    return ["strategy", *dict.fromkeys(kind for _, kind in under_attack(results))]


def attack_cells(results: Results) -> list[list[str]]:
    """A row for each strategy: accuracy, and in brackets the share of its own clean accuracy; then the backdoor's success."""
    found, kinds = under_attack(results), attack_headers(results)[1:]
    names = dict.fromkeys(strategy for strategy, _ in found)
    return [[name, *(_text(found.get((name, kind))) for kind in kinds)] for name in names]


def _text(one: UnderAttack | None) -> str:
    """``0.412 (47 %)``; under a backdoor ``0.840 (98 %), took 0.52``."""
    if one is None:
        return "-"
    kept = "" if one.kept is None or one.attack == "none" else f" ({one.kept:.0%})".replace("%", " %")
    took = "" if one.backdoor is None else f", took {number(one.backdoor, 2)}"
    return f"{number(one.accuracy)}{kept}{took}"


def attack_documents(results: Results) -> list[Json]:
    """For ``--json``."""
    return [one.to_json() for one in under_attack(results).values()]


def attack_csv(results: Results) -> bytes:
    """A row for each strategy and attack."""
    rows = [one.to_json() for one in under_attack(results).values()]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_fields(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _fields(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    return list(rows[0])
