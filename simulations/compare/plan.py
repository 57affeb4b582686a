"""Which runs a comparison has: variants of one experiment, times seeds.

Example::

    plan = make_plan(experiment, strategies=("fedavg", "fedavg:weighting=examples"), sweeps=(), seeds=3)
    [(run.variant.name, run.seed) for run in plan.runs()]       # all variants of the first seed, then of the next
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fedrelease.attack import Attack
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, StrategyChoice
from fedrelease.experiment_document import experiment_digest, to_document
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.files import Json
from fedrelease.simulations.compare.tuning import APART, Search, Wanted, check_optuna, plan_search
from fedrelease.strategies import make_strategy

__all__ = ["ATTACK", "Plan", "Run", "Variant", "default_strategies", "make_plan", "parse_strategy"]

FOR_ALL = ("fedavg", "fedprox", "fedavgm:lr=0.5:momentum=0.5", "fedadam:lr=0.01", "median")
FOR_LORA = ("ffa-lora", "rolora", "flexlora")
FOR_OTHERS = ("scaffold", "feddyn", "geometric-median")
"""What is compared when nobody says what."""
AGAINST_ATTACKS = ("fedavg", "median", "trimmed-mean", "geometric-median")
ATTACK = "attack.kind"

MOST_SEEDS = APART
MOST_RUNS = 10_000
LONGEST_FOLDER = 80
NOT_SWEPT: Mapping[str, str] = {
    "data": "all variants see the same rows, or their difference by seed means nothing; make two comparisons",
    "federation.seed": "say how many seeds with --seeds",
    "federation.store": "every run has a store of its own below --out",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the things compared: the experiment with a strategy in every phase, or with other values of some keys.

    Attributes:
        name: as typed, such as ``fedavg:weighting=examples training.lr=0.001``.
        experiment: with everything but the seed set.
    """

    name: str
    experiment: Experiment

    @property
    def folder(self) -> str:
        """The name as a folder's name."""
        plain = re.sub(r"[^\w.=+-]+", "_", self.name)
        if len(plain) <= LONGEST_FOLDER and plain == self.name:
            return plain
        return f"{plain[:LONGEST_FOLDER]}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation of the comparison, or of the search before it: then ``trial`` counts from 1."""

    variant: Variant
    seed: int
    experiment: Experiment
    trial: int | None = None

    def store(self, out: Path) -> Path:
        """Its own store."""
        if self.trial is not None:
            return out / "search" / self.variant.folder / f"trial-{self.trial}"
        return out / "runs" / self.variant.folder / f"seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs. ``seeds`` are values of ``federation.seed``, from the experiment's own upwards.

    So the first run of a strategy that the experiment has already is what ``simulate`` makes of it, bit for bit.
    ``search``: what is searched before; ``None`` if every variant runs with its own values.
    """

    experiment: Experiment
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    swept: tuple[str, ...] = ()
    search: Search | None = None

    def runs(self) -> Iterator[Run]:
        """All variants of the first seed, then of the second: a comparison that is cut short is a smaller comparison."""
        for seed, variant in product(self.seeds, self.variants):
            federation = replace(variant.experiment.federation, seed=seed)
            yield Run(variant=variant, seed=seed, experiment=replace(variant.experiment, federation=federation))

    def to_json(self) -> dict[str, Json]:
        """What makes this plan another one: experiment, variants by name and digest, seeds, and the search if there is one."""
        variants: list[Json] = [
            {"name": one.name, "experiment": experiment_digest(one.experiment)} for one in self.variants
        ]
        searched: dict[str, Json] = {} if self.search is None else {"search": self.search.to_json()}
        shared = to_document(self.experiment)
        return {"experiment": shared, "variants": variants, "seeds": list(self.seeds), **searched}


def default_strategies(experiment: Experiment, *, searched: bool = False) -> tuple[str, ...]:
    """What is compared where nobody says what: eight strategies of several families that the adapter allows.

    With a search before, without their knobs: the search finds these.
    """
    listed = FOR_ALL + (FOR_LORA if experiment.model.adapter.kind == "lora" else FOR_OTHERS)
    return tuple(text.partition(":")[0] for text in listed) if searched else listed


def make_plan(
    experiment: Experiment,
    *,
    strategies: Sequence[str],
    sweeps: Sequence[str],
    seeds: int,
    attacks: Sequence[str] = (),
    search: Wanted | None = None,
) -> Plan:
    """The plan of what a user typed.

    Args:
        experiment: what all variants share.
        strategies: each ``name`` or ``name:knob=value:knob=value``; none = the experiment's own if keys are swept, else
            :func:`default_strategies`.
        sweeps: each ``section.key=a,b``, or several of them with ``;`` between; all combinations are variants.
        seeds: how many.
        attacks: kinds of attack, which are compared with none: another way to say ``attack.kind=none,a,b`` in ``sweeps``.
        search: what is searched for each variant before; ``None`` = nothing.

    Raises:
        ExperimentError: a strategy, knob, key or value that there is not; nothing was run.
    """
    _check_seeds(experiment, seeds)
    if search is not None:
        check_optuna()
    keys = [_sweep(text) for given in (*sweeps, *_attack_sweep(attacks)) for text in given.split(";")]
    _check_once([key for key, _ in keys], "--vary")
    unsaid = () if keys else default_strategies(experiment, searched=search is not None)
    texts = strategies or (AGAINST_ATTACKS if attacks else unsaid)
    named: list[tuple[str, StrategyChoice | None]] = [(text.strip(), parse_strategy(text)) for text in texts]
    named = named or [("", None)]
    settings = list(product(*([f"{key}={value}" for value in values] for key, values in keys)))
    runs = len(named) * len(settings) * (seeds + (search.trials if search else 0))
    if runs > MOST_RUNS:
        _refuse("too many runs", runs, f"a comparison has at most {MOST_RUNS}, trials of a search included")
    variants = [_variant(experiment, name, choice, swept) for name, choice in named for swept in settings]
    _check_different(variants)
    first, varied = experiment.federation.seed, tuple(key for key, _ in keys)
    pairs = [(variant.name, variant.experiment) for variant in variants]
    return Plan(
        experiment=experiment,
        variants=tuple(variants),
        seeds=tuple(range(first, first + seeds)),
        swept=varied,
        search=None if search is None else plan_search(pairs, wanted=search, varied=varied),
    )


def parse_strategy(text: str) -> StrategyChoice:
    """``fedavg:weighting=examples`` as a choice that exists; values are TOML, else bare text.

    Raises:
        ExperimentError: the strategy or the knob does not exist, or the value does not fit.
    """
    name, *knobs = text.strip().split(":")
    choice = StrategyChoice(name=name, knobs=dict(_knob(text, knob) for knob in knobs))
    make_strategy(choice)
    return choice


def _knob(text: str, knob: str) -> tuple[str, float | int | bool | str]:
    key, equals, value = knob.partition("=")
    if not (equals and key and value):
        _refuse("this is no strategy with knobs", text, "it is written name:knob=value", "fedavg:weighting=examples")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return key, value
    return key, parsed if isinstance(parsed, float | int | bool | str) else value


def _sweep(text: str) -> tuple[str, list[str]]:
    """A key and its values. Whether the experiment has the key is found out when it is set."""
    key, equals, values = (part.strip() for part in text.partition("="))
    listed = [value.strip() for value in values.split(",")]
    if not (key and equals and all(listed)):
        _refuse("this is no key with values", text, "it is written section.key=a,b", "--vary training.lr=1e-4,1e-3")
    for fixed, hint in NOT_SWEPT.items():
        if key == fixed or key.startswith(f"{fixed}."):
            _refuse(f"{key} cannot be varied", text, "seeds, rows and stores are the comparison's own", hint)
    if re.fullmatch(r"phase\.\d+\.strategy(\..*)?", key):
        _refuse(f"{key} cannot be varied", text, "a strategy is set in every phase", "use --strategies")
    _check_once(listed, f"--vary {key}")
    return key, listed


def _attack_sweep(kinds: Sequence[str]) -> list[str]:
    named = [kind.strip() for kind in kinds if kind.strip() != "none"]
    if kinds and not named:
        _refuse("no attack is named", ",".join(kinds), "--attacks names kinds of attack", "--attacks sign-flip,scaling")
    return [f"{ATTACK}={','.join(['none', *named])}"] if named else []


def _under(experiment: Experiment, swept: Sequence[str]) -> Experiment:
    """Ready for another kind of attack: share, trigger and target stay, a strength means something else; none has neither."""
    kinds = [setting.removeprefix(f"{ATTACK}=") for setting in swept if setting.startswith(f"{ATTACK}=")]
    if not kinds or kinds[0] == experiment.attack.kind:
        return experiment
    own = experiment.attack
    return replace(experiment, attack=Attack() if kinds[0] == "none" else replace(own, strength=None))


def _variant(experiment: Experiment, name: str, choice: StrategyChoice | None, swept: Sequence[str]) -> Variant:
    ready = _under(experiment, swept)
    made = load_experiment(Path("--vary"), swept, text=to_toml(ready)) if swept else experiment
    if choice is not None:
        made = replace(made, phases=tuple(replace(phase, strategy=choice) for phase in made.phases))
    for phase in made.phases:
        make_strategy(phase.strategy)
    return Variant(name=" ".join(part for part in (name, *swept) if part), experiment=made)


def _check_seeds(experiment: Experiment, seeds: int) -> None:
    if not 1 <= seeds <= MOST_SEEDS:
        _refuse("no number of seeds", seeds, f"a comparison has 1 to {MOST_SEEDS} seeds", "--seeds 3")
    highest = 2**31 - seeds
    if experiment.federation.seed > highest:
        _refuse("the seeds run out", experiment.federation.seed, f"federation.seed is at most {highest} here")


def _check_once(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        _refuse(f"{where} names something twice", ", ".join(twice), "everything compared is named once")


def _check_different(variants: Sequence[Variant]) -> None:
    """Two names for one thing would be compared with each other, and never differ."""
    seen: dict[str, str] = {}
    for variant in variants:
        digest = experiment_digest(variant.experiment)
        if digest in seen:
            same = f"{seen[digest]} and {variant.name}"
            _refuse("two variants are the same", same, "variants differ in a strategy, a knob or a key")
        seen[digest] = variant.name
    if len(variants) < 2:
        _refuse(
            "one variant is no comparison",
            variants[0].name,
            "a comparison has at least two",
            "name another strategy with --strategies, or two values with --vary",
        )


def _refuse(what: str, value: object, rule: str, hint: str = "") -> None:
    raise ExperimentError(what, value=value, rule=rule, hint=hint)
