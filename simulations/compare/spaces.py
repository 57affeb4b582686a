"""What a search may try: ranges and lists of values by key, as they are typed, and those that strategies have by default.

Example::

    parse_space("1e-4..1e-2")                          # Range(low=0.0001, high=0.01, log=True)
    parse_space("0.5..0.99:linear")                    # Range(low=0.5, high=0.99, log=False)
    parse_space("1,2,4")                               # Choices(values=(1, 2, 4))
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment

__all__ = ["DEFAULTS", "Choices", "Range", "parse_space", "shared_default"]

DEFAULTS: Mapping[str, Mapping[str, str]] = {
    # Douillard et al. (2023), https://arxiv.org/abs/2311.08105, appendix: outer rates from 0.1 to 1.
    "diloco": {"lr": "0.1..1"},
    # Reddi et al. (2021), https://arxiv.org/abs/2003.00295, appendix D: server rates from 0.001 to 10, of which updates as
    # small as an adapter's need no more than 1.
    "fedadagrad": {"lr": "0.001..1"},
    "fedadam": {"lr": "0.001..1"},
    "fedopt": {"lr": "0.001..1"},
    "fedyogi": {"lr": "0.001..1"},
    # Hsu et al. (2019), https://arxiv.org/abs/1909.06335, section 4.3, for the momentum; the rate as above, since it is
    # lr / (1 - momentum) that counts.
    "fedavgm": {"lr": "0.01..1", "momentum": "0.7,0.9,0.97,0.99"},
    # Acar et al. (2021), https://arxiv.org/abs/2111.04263, appendix: 0.001, 0.01 and 0.1.
    "feddyn": {"alpha": "0.001..0.1"},
    # Li et al. (2020), https://arxiv.org/abs/1812.06127, section 5: 0.001, 0.01, 0.1 and 1.
    "fedprox": {"mu": "0.001..1"},
    # Ilharco et al. (2023), https://arxiv.org/abs/2212.04089, section 2: steps of 0.05 up to 1.
    "task-arithmetic": {"scaling": "0.05..1:linear"},
    # Yadav et al. (2023), https://arxiv.org/abs/2306.01708, appendix: the top 10, 20 or 30 %, and about 0.8 to 1.8.
    "ties": {"density": "0.1,0.2,0.3", "scaling": "0.8..1.8:linear"},
}
"""Knobs that decide what a strategy is worth, by strategy. What is not here has none, or one that says what it is against
(``krum.hostile``) or for (``qfedavg.q``), which no search on accuracy should choose."""

DECADE = 10.0
"""The sites' learning rate is searched for every variant: one decade below the experiment's own and one above."""

Value: TypeAlias = float | int | bool | str


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``, ends included; whole ones if both ends are ints. ``log``: equal factors count equal."""

    low: float | int
    high: float | int
    log: bool

    def __str__(self) -> str:
        """As it is typed."""
        scale = ":linear" if self.low > 0 and not self.log else ""
        return f"{self.low:g}..{self.high:g}{scale}"

    def holds(self, value: object) -> bool:
        """Whether the value lies in it, and is one of its kind."""
        kinds = int if isinstance(self.low, int) else float | int
        return isinstance(value, kinds) and type(value) is not bool and self.low <= value <= self.high

    def ends(self) -> tuple[Value, ...]:
        """Values to check the key's bounds with: between them all others lie."""
        return (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of several values; a single one is set and not searched."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        """As it is typed."""
        return ",".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)

    def holds(self, value: object) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def ends(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values


Space: TypeAlias = Range | Choices


def shared_default(experiment: Experiment) -> Mapping[str, str]:
    """What is searched for every variant where nobody says otherwise."""
    lr = experiment.training.lr
    return {"training.lr": f"{lr / DECADE:.6g}..{lr * DECADE:.6g}"}


def parse_space(text: str) -> Space:
    """``LOW..HIGH``, ``LOW..HIGH:linear``, or ``A,B,C``.

    A range is log-scaled where both ends are above 0, unless it says ``:linear``. Values of a list are TOML, else bare text.

    Raises:
        ExperimentError: it is neither, the range is empty, or the list names a value twice.
    """
    if ".." in text:
        return _range(text)
    values = tuple(_value(part.strip()) for part in text.split(","))
    if not all(part.strip() for part in text.split(",")):
        raise _misfit("these are no values to search", text, "a list is written a,b,c and has no gap in it")
    if len({json.dumps(value) for value in values}) < len(values):
        raise _misfit("a value is there twice", text, "a list names every value once")
    return Choices(values=values)


def _range(text: str) -> Range:
    found = re.fullmatch(r"(.+?)\.\.(.+?)(:log|:linear)?", text)
    low, high = (_number(part) for part in found.groups()[:2]) if found else (None, None)
    if found is None or low is None or high is None:
        raise _misfit("this is no range", text, "a range is two numbers: LOW..HIGH, LOW..HIGH:linear or LOW..HIGH:log")
    if low >= high:
        raise _misfit("this range is empty", text, "LOW is below HIGH")
    if found[3] == ":log" and low <= 0:
        raise _misfit("this range has no log scale", text, "on a log scale both ends are above 0")
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low), float(high)
    return Range(low=low, high=high, log=low > 0 and found[3] != ":linear")


def _number(text: str) -> float | int | None:
    try:
        number = int(text) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text) else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _value(text: str) -> Value:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = parsed["value"]
    return value if len(parsed) == 1 and isinstance(value, float | int | bool | str) else text


def _misfit(what: str, text: str, rule: str) -> ExperimentError:
    return ExperimentError(what, value=text, rule=rule, hint="--search training.lr=1e-4..1e-2")
