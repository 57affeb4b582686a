"""What a comparison searches before it compares: for each variant the keys and their values, the trials, and the seed.

Example::

    search = plan_search([("fedavg", experiment)], wanted=Wanted(trials=8, keys=("training.lr=1e-4..1e-2",)), varied=())
    search.spaces["fedavg"]                                     # {'training.lr': Range(low=0.0001, high=0.01, log=True)}
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment, Phase
from fedrelease.experiment_document import flat, to_document, wanted_at
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.files import Json
from fedrelease.simulations.compare.spaces import DEFAULTS, Range, Space, Value, parse_space, shared_default
from fedrelease.strategies import STRATEGIES, make_strategy

__all__ = ["APART", "OBJECTIVES", "Search", "Wanted", "check_optuna", "own_values", "plan_search", "with_values"]

OBJECTIVES: Mapping[str, str] = {
    "accuracy": "the mean accuracy of the sites' hold-outs",
    "worst-site": "the accuracy of the worst site",
}
APART = 1000
"""How far the seed of all trials lies above the experiment's own: a comparison has at most so many seeds, so that none of its
runs has the seed of the trials."""
SEARCHED = ("training.", "model.", "privacy.clip")
INSTALL = 'pip install -c constraints.txt "fedrelease[search]"'


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user typed. ``keys``: each ``KEY=SPACE``, or several of them with ``;`` between."""

    trials: int
    keys: tuple[str, ...] = ()
    objective: str = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Search:
    """The plan of a search.

    Attributes:
        trials: of every variant. seed: of all of them; none of the comparison's.
        objective: a member of ``OBJECTIVES``, after the last round.
        spaces: by variant and key; the key of a knob is ``STRATEGY.KNOB``.
        given: knobs by variant that keep the value which the experiment or ``--strategies`` gives them.
    """

    trials: int
    seed: int
    objective: str
    spaces: Mapping[str, Mapping[str, Space]]
    given: Mapping[str, tuple[str, ...]]

    def shared(self) -> Mapping[str, Space]:
        """What is the same for all variants."""
        first, *others = self.spaces.values()
        return {key: space for key, space in first.items() if all(other.get(key) == space for other in others)}

    def to_json(self) -> dict[str, Json]:
        """What makes this search another one."""
        spaces: dict[str, Json] = {
            name: {key: str(space) for key, space in of.items()} for name, of in self.spaces.items()
        }
        return {"trials": self.trials, "seed": self.seed, "objective": self.objective, "spaces": spaces}


def check_optuna() -> None:
    """Refuse to go on without Optuna.

    Raises:
        ExperimentError: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        rule = "a search needs the optional extra 'search'"
        raise ExperimentError("Optuna is not installed", value="--trials", rule=rule, hint=INSTALL)


def plan_search(variants: Sequence[tuple[str, Experiment]], *, wanted: Wanted, varied: Sequence[str]) -> Search:
    """The search of these variants, by name.

    Args:
        varied: keys that tell variants apart, which no search may touch.

    Raises:
        ExperimentError: a key, knob or space that there is not, or a variant without anything to search; nothing was run.
    """
    _check(wanted)
    typed = _typed(wanted.keys, varied)
    spaces = {name: _spaces(experiment, typed, varied) for name, experiment in variants}
    _check_used(typed, spaces, [experiment for _, experiment in variants])
    for name, experiment in variants:
        _check_searches(name, spaces[name])
        _check_bounds(experiment, spaces[name])
    return Search(
        trials=wanted.trials,
        seed=_seed(variants[0][1]),
        objective=wanted.objective,
        spaces=spaces,
        given={name: _given(experiment) for name, experiment in variants},
    )


def with_values(experiment: Experiment, values: Mapping[str, Value]) -> Experiment:
    """The experiment with these values of keys and knobs.

    Raises:
        ExperimentError: a value does not fit.
    """
    settings = [f"{key}={json.dumps(value)}" for key, value in values.items() if not _is_knob(key)]
    made = load_experiment(Path("--search"), settings, text=to_toml(experiment)) if settings else experiment
    made = replace(made, phases=tuple(_with_knobs(phase, values) for phase in made.phases))
    for phase in made.phases:
        make_strategy(phase.strategy)
    return made


def own_values(experiment: Experiment, keys: Sequence[str]) -> Mapping[str, object]:
    """What the experiment has for these keys before any search; ``None`` for what is left out."""
    document = flat(to_document(experiment))
    return {key: _own_knob(experiment, key) if _is_knob(key) else document.get(key) for key in keys}


def _own_knob(experiment: Experiment, key: str) -> object:
    name, _, knob = key.partition(".")
    chosen = next(phase.strategy for phase in experiment.phases if phase.strategy.name == name)
    return getattr(make_strategy(chosen), knob)


def _with_knobs(phase: Phase, values: Mapping[str, Value]) -> Phase:
    prefix = f"{phase.strategy.name}."
    knobs = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    return replace(phase, strategy=replace(phase.strategy, knobs={**phase.strategy.knobs, **knobs}))


def _is_knob(key: str) -> bool:
    return key.partition(".")[0] in STRATEGIES


def _seed(experiment: Experiment) -> int:
    seed = experiment.federation.seed + APART
    if seed >= 2**31:
        _refuse(
            "the seeds run out", experiment.federation.seed, f"with --trials federation.seed is below {2**31 - APART}"
        )
    return seed


def _check(wanted: Wanted) -> None:
    if wanted.trials < 1:
        _refuse("no number of trials", wanted.trials, "a search has at least one trial a variant", "--trials 8")
    if wanted.objective not in OBJECTIVES:
        _refuse("unknown objective", wanted.objective, f"--objective is one of {', '.join(sorted(OBJECTIVES))}")


def _typed(texts: Sequence[str], varied: Sequence[str]) -> Mapping[str, Space]:
    """Key -> space of everything typed; whether a key exists is found out when it is set."""
    typed: dict[str, Space] = {}
    for text in (part for given in texts for part in given.split(";")):
        key, equals, space = (part.strip() for part in text.partition("="))
        if not (key and equals and space):
            _refuse(
                "this is no key with a space", text, "it is written KEY=LOW..HIGH or KEY=A,B", "training.lr=1e-4..1e-2"
            )
        if key in typed:
            _refuse("--search names a key twice", key, "every key has one space")
        if key in varied:
            _refuse(
                "a key is varied and searched",
                key,
                "--vary compares its values, --search chooses one",
                "do one of them",
            )
        _check_key(key)
        typed[key] = parse_space(space)
    return typed


def _check_key(key: str) -> None:
    head, _, knob = key.partition(".")
    if head in STRATEGIES or head == "strategy":
        kinds = [STRATEGIES[head]] if head in STRATEGIES else list(STRATEGIES.values())
        known = sorted({field.name for kind in kinds for field in fields(kind)})  # type: ignore[arg-type]  # dataclasses all
        if knob not in known:
            _refuse(f"no such knob: {key}", key, f"knobs of {head} are {', '.join(known) or 'none'}")
    elif not key.startswith(SEARCHED):
        _refuse(
            f"{key} cannot be searched",
            key,
            "searched are knobs of strategies and keys of [training], [model] and privacy.clip: what is trained how, "
            "and nothing that decides rows, rounds, seeds or the promise of privacy",
            "strategy.lr=0.1..2, fedadam.lr=0.01..1 or training.lr=1e-4..1e-2",
        )


def _spaces(experiment: Experiment, typed: Mapping[str, Space], varied: Sequence[str]) -> Mapping[str, Space]:
    """Shared keys first, then each strategy's knobs in their own order."""
    defaults = {key: parse_space(text) for key, text in shared_default(experiment).items() if key not in varied}
    keys = {**defaults, **{key: space for key, space in typed.items() if key.startswith(SEARCHED)}}
    found = {key: _fitted(key, space, wanted_at(tuple(key.split(".")))) for key, space in keys.items()}
    given = _given(experiment)
    for name in dict.fromkeys(phase.strategy.name for phase in experiment.phases):
        for knob, hint in get_type_hints(STRATEGIES[name]).items():
            key, default = f"{name}.{knob}", DEFAULTS.get(name, {}).get(knob)
            space = typed.get(key) or typed.get(f"strategy.{knob}") or (parse_space(default) if default else None)
            if space is not None and key not in given:
                found[key] = _fitted(key, space, hint)
    return found


def _given(experiment: Experiment) -> tuple[str, ...]:
    """Knobs that somebody has decided."""
    chosen = [phase.strategy for phase in experiment.phases]
    return tuple(dict.fromkeys(f"{choice.name}.{knob}" for choice in chosen for knob in choice.knobs))


def _fitted(key: str, space: Space, hint: object) -> Space:
    """A range in the type of its key: whole numbers only where both ends are, and the key takes them."""
    kinds = {kind for kind in get_args(hint) or (hint,) if kind is not NoneType}
    if not isinstance(space, Range) or hint is None:
        return space  # an unknown key is refused with the nearest known name when its values are tried
    whole = isinstance(space.low, int)
    if (whole and int in kinds) or (not whole and float in kinds):
        return space
    if float in kinds:
        return replace(space, low=float(space.low), high=float(space.high))
    what = "whole numbers only" if int in kinds else "no numbers"
    _refuse(f"{key} has no such range", str(space), f"{key} takes {what}", f"a range of ints, or a list: {key}=A,B")
    return space


def _check_used(
    typed: Mapping[str, Space], spaces: Mapping[str, Mapping[str, Space]], experiments: Sequence[Experiment]
) -> None:
    """Refuse a typed knob that no variant would search: a search that does nothing looks like one that found nothing."""
    used = {key for of in spaces.values() for key in of}
    knobs = {f"strategy.{key.partition('.')[2]}" for key in used if _is_knob(key)}
    for key in typed:
        if key not in used | knobs:
            names = sorted({phase.strategy.name for experiment in experiments for phase in experiment.phases})
            _refuse(
                f"no variant searches {key}",
                key,
                f"the strategies compared are {', '.join(names)}; a knob that has a value already keeps it",
                "name a strategy that has this knob in --strategies, without a value for it",
            )


def _check_searches(name: str, spaces: Mapping[str, Space]) -> None:
    if all(len(set(space.ends())) == 1 for space in spaces.values()):
        _refuse(
            f"{name} has nothing to search",
            ", ".join(f"{key}={space}" for key, space in spaces.items()),
            "every variant gets the same number of trials, and equal trials tell nothing",
            "search a key that all variants have, such as training.lr=1e-4..1e-2",
        )


def _check_bounds(experiment: Experiment, spaces: Mapping[str, Space]) -> None:
    """Refuse before anything runs what would be refused in some trial: every end and every value of a list is tried."""
    for key, space in spaces.items():
        for value in space.ends():
            try:
                with_values(experiment, {key: value})
            except ExperimentError as error:
                what = f"--search {key}={space}: {error.what.partition(': ')[2] or error.what}"
                raise ExperimentError(what, value=error.value, rule=error.rule, hint=error.hint) from error


def _refuse(what: str, value: object, rule: str, hint: str = "") -> None:
    raise ExperimentError(what, value=value, rule=rule, hint=hint)
