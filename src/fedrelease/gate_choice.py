"""Which gates a phase has: those that always look, and those that the experiment names, each with its knobs.

Example::

    rules = chosen_gates({"quality": {"margin": 0.01}})      # {'compatibility': ..., 'integrity': ..., 'quality': ...}
    rules["quality"].severity                                # 'block'
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias, get_type_hints

from fedrelease.errors import ExperimentError
from fedrelease.gate_rules import GATES, GateRule

__all__ = ["DEFAULT_GATES", "MEASURED", "OF_ITEMS", "Knobs", "chosen_gates", "make_rule", "needs_items"]

Knobs: TypeAlias = Mapping[str, float | int | bool | str]

DEFAULT_GATES = ("compatibility", "integrity", "privacy", "update")
"""What they need is there in every round."""
MEASURED = ("latency", "memory")
"""What they need is measured on a machine and differs from run to run; a round must repeat, so a round cannot have them."""
OF_ITEMS = ("churn", "looks", "loss", "quality")


def chosen_gates(named: Mapping[str, Knobs]) -> Mapping[str, GateRule]:
    """The rules of a phase, by gate.

    Raises:
        ExperimentError: an unknown gate or knob, a knob out of bounds, or a gate that no round can have.
    """
    for name in MEASURED:
        if name in named:
            raise ExperimentError(
                f"phase.gates.{name} is no gate of a round",
                value=name,
                rule="a round repeats bit for bit, and this is measured on a machine",
                hint="leave it out, and measure a release with: fedrelease gate VERSION --measure",
            )
    return {name: make_rule(name, named.get(name, {})) for name in sorted({*DEFAULT_GATES, *named})}


def needs_items(named: Mapping[str, Knobs]) -> bool:
    """Whether one of the gates compares item by item."""
    return any(name in named for name in OF_ITEMS)


def make_rule(name: str, knobs: Knobs) -> GateRule:
    """The rule of a gate with these knobs; the others have their defaults.

    Raises:
        ExperimentError: no gate of that name, no such knob, or a knob of the wrong type or out of bounds.
    """
    if name not in GATES:
        near = difflib.get_close_matches(name, GATES, n=1)
        hint = f"did you mean {near[0]}" if near else "choose one of those"
        rule = f"phase.gates names {', '.join(sorted(GATES))}"
        raise ExperimentError("unknown gate", value=name, rule=rule, hint=hint)
    kinds = get_type_hints(GATES[name])
    known = {field.name for field in fields(GATES[name])}  # type: ignore[arg-type]  # every rule is a dataclass
    for knob, value in knobs.items():
        if knob not in known:
            rule = f"its knobs are {', '.join(sorted(known))}"
            raise ExperimentError(f"gate {name} has no knob called {knob}", value=knob, rule=rule)
        wanted = kinds[knob]
        number = isinstance(value, int if wanted is int else int | float) and not isinstance(value, bool)
        if not (isinstance(value, str) if wanted is str else number):
            rule = f"a {'text in quotes' if wanted is str else 'whole number' if wanted is int else 'number'}"
            raise ExperimentError(f"gates.{name}.{knob} is of the wrong type", value=value, rule=rule)
    return GATES[name](**knobs)
