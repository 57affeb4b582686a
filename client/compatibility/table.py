"""The table: every task with every kind of adapter on every make of base, and beside each refusal the nearest thing that works.

Example::

    for row in chain(*rows_of(Wanted(tasks=("causal-lm",)), folder, cache=cache_folder())):
        print(row.base, row.adapter, row.works)          # gpt2 lora ('plain', 'formed')
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers.utils import logging

from fedrelease.adapter import ADAPTER_KINDS, Adapter
from fedrelease.client.compatibility.bases import MAKES
from fedrelease.client.compatibility.engines import ENGINES, Combination, Outcome, tried
from fedrelease.models.bases import Base, open_base
from fedrelease.tasks import TASKS

__all__ = ["Tried", "Wanted", "rows_of", "with_nearest"]

PRIVATE = ("formed", "booked")
FIRST = ("lora", "full")
"""Kinds of adapters that are named before others, where several would do."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to try.

    Attributes:
        base: of the user's, by alias, folder or hub id; ``None`` for tiny ones of each make.
        adapters: kinds; ``keys`` has what they share beside.
    """

    base: str | None = None
    tasks: Sequence[str] = tuple(sorted(TASKS))
    adapters: Sequence[str] = ADAPTER_KINDS
    keys: Adapter = field(default_factory=Adapter)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One combination and what came of it, by engine."""

    task: str
    base: str
    adapter: str
    outcomes: Mapping[str, Outcome]

    @property
    def works(self) -> tuple[str, ...]:
        """The engines that work."""
        return tuple(name for name in ENGINES if self.outcomes[name].status == "works")

    @property
    def is_private(self) -> bool:
        """Whether it can be trained privately."""
        return any(name in self.works for name in PRIVATE)

    @property
    def wrong(self) -> tuple[str, ...]:
        """The engines whose gradients are not what they are taken for, or that broke."""
        return tuple(name for name in ENGINES if self.outcomes[name].status == "wrong")


def rows_of(wanted: Wanted, folder: Path, *, cache: Path) -> Iterator[Sequence[Tried]]:
    """The rows of each task, one task after the other, with the nearest thing that works beside what is refused.

    Args:
        folder: where tiny bases are written. cache: of bases that were fetched.

    Raises:
        ModelError: the base that is wanted is not there.
        FetchError: as that, of a built-in one.
    """
    with _quiet():
        bases = _bases(wanted, folder, cache)
        for task in wanted.tasks:
            fitting = {name: base for name, base in bases.items() if wanted.base or _reads(base) == TASKS[task].reads}
            kinds = [replace(wanted.keys, kind=kind) for kind in wanted.adapters]
            yield with_nearest([_row(task, name, base, one) for name, base in fitting.items() for one in kinds])


def _bases(wanted: Wanted, folder: Path, cache: Path) -> dict[str, Base]:
    if wanted.base is not None:
        return {wanted.base: open_base(wanted.base, cache=cache)}
    return {name: open_base(one.make(folder / name), cache=folder) for name, one in MAKES.items()}


def _reads(base: Base) -> str:
    return "images" if base.reads_images else "texts"


def _row(task: str, name: str, base: Base, adapter: Adapter) -> Tried:
    found = tried(Combination(task=task, adapter=adapter), base)
    named = {engine: _by_name(one, base, name) for engine, one in found.items()}
    return Tried(task=task, base=name, adapter=adapter.kind, outcomes=named)


def _by_name(outcome: Outcome, base: Base, name: str) -> Outcome:
    """A tiny base lies in a folder that is gone afterwards, whose name helps nobody."""
    what, given = (text.replace(base.ref, name) for text in (outcome.what, outcome.given))
    return replace(outcome, what=what, given=given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it libraries say nothing of bases whose heads are not used, and one thread is enough for so small products."""
    before, threads = logging.get_verbosity(), torch.get_num_threads()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(before)


def with_nearest(rows: Sequence[Tried]) -> Sequence[Tried]:
    """The same rows; what is refused says what comes nearest among them: another adapter, no privacy, or another base."""
    return [replace(row, outcomes={name: _named(name, row, rows) for name in ENGINES}) for row in rows]


def _named(engine: str, row: Tried, rows: Sequence[Tried]) -> Outcome:
    outcome = row.outcomes[engine]
    if outcome.status != "refused":
        return outcome
    return replace(outcome, instead=_nearest(row, rows, private=engine in PRIVATE))


def _nearest(row: Tried, rows: Sequence[Tried], *, private: bool) -> str:
    fit = [one for one in rows if (one.is_private if private else "plain" in one.works)]
    fit.sort(key=lambda one: one.adapter not in FIRST)
    kinds = [one.adapter for one in fit if one.base == row.base]
    if kinds:
        return f'[model.adapter] kind = "{kinds[0]}"'
    if "plain" in row.works:
        return '[privacy] unit = "none"'
    bases = [one.base for one in fit if one.adapter == row.adapter]
    if bases or not fit:
        return f"another base, such as {bases[0]}" if bases else ""
    return f'another base, such as {fit[0].base}, with [model.adapter] kind = "{fit[0].adapter}"'
