"""``diff``: what lies between two releases.

Example::

    fedrelease diff stable 0.2.3 --tensors 5
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedrelease.cli.output import Column, emit_json, fitting, put, section, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.wording import number

if TYPE_CHECKING:
    from fedrelease.server.difference import Difference, Moved, SliceChange
    from fedrelease.server.release import Release

__all__ = ["diff", "print_difference"]

SITES_SHOWN = 20


def diff(
    before: Annotated[str, typer.Argument(metavar="REF", help="A version, a channel or a digest.")],
    after: Annotated[str, typer.Argument(metavar="REF", help="The release that it is compared with.")],
    tensors: Annotated[int, typer.Option("--tensors", metavar="N", min=0, help="How many tensors are named.")] = 10,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Say what lies between two releases.

    Answers item by item with intervals where both kept them for the same set, metrics, how far each tensor moved, epsilon, sites
    that joined and left, configuration and gates.
    """
    from fedrelease.server.difference import difference

    opened = open_store(store)
    releases = [opened.find(ref) for ref in (before, after)]
    found = difference(releases[0], releases[1])
    if as_json:
        versions = {"before": releases[0].version, "after": releases[1].version}
        emit_json({**versions, **asdict(found), "tensors": [asdict(one) for one in found.tensors]})
    else:
        print_difference(found, releases[0], releases[1], to_stdout(), tensors=tensors)


def print_difference(
    found: "Difference", before: "Release", after: "Release", console: Console, *, tensors: int
) -> None:
    """Print section by section; one that has nothing to say is left out."""
    console.print(f"{before.version} -> {after.version}")
    _print_answers(found, console)
    _print_metrics(found, console)
    _print_tensors(found.tensors, console, tensors)
    _print_rest(found, console)


def _print_answers(found: "Difference", console: Console) -> None:
    if found.unpaired is not None:
        section(console, "answers", [("", found.unpaired)])
        return
    section(console, "answers, on the same items", [])
    shown = found.slices
    columns = [
        Column(header="  slice", cells=[f"  {one.slice}" for one in shown]),
        Column(header="metric", cells=[one.metric for one in shown]),
        Column(header="items>", cells=[str(one.n) for one in shown], rank=1),
        Column(header="before>", cells=[number(one.before) for one in shown], rank=2),
        Column(header="after>", cells=[number(one.after) for one in shown], rank=2),
        Column(header="difference>", cells=[f"{one.difference:+.3f}" for one in shown]),
        Column(header="90 % interval>", cells=[_interval(one) for one in shown]),
    ]
    put(console, fitting(console, columns))


def _interval(one: "SliceChange") -> str:
    return f"{one.low:+.3f} to {one.high:+.3f}"


def _print_metrics(found: "Difference", console: Console) -> None:
    shown = found.metrics[:SITES_SHOWN]
    if not shown:
        return
    section(console, "metrics, as the sites told them", [])
    gone = ["-" if None in (m.before, m.after) else f"{(m.after or 0) - (m.before or 0):+.3f}" for m in shown]
    columns = [
        Column(header="  of", cells=[f"  {one.who}" for one in shown]),
        Column(header="metric", cells=[one.metric for one in shown]),
        Column(header="before>", cells=[number(one.before) for one in shown]),
        Column(header="after>", cells=[number(one.after) for one in shown]),
        Column(header="difference>", cells=gone, rank=1),
    ]
    put(console, fitting(console, columns))
    if len(found.metrics) > len(shown):
        console.print(f"  and {len(found.metrics) - len(shown)} more: --json")


def _print_tensors(moved: "Sequence[Moved]", console: Console, most: int) -> None:
    shown = moved[:most]
    section(console, f"tensors: {len(moved)} moved", [])
    if not shown:
        return
    columns = [
        Column(header="  tensor", cells=[f"  {one.name}" for one in shown]),
        Column(header="by, of its length>", cells=[_share(one) for one in shown]),
        Column(header="distance>", cells=[number(one.distance, 4) for one in shown], rank=1),
        Column(header="what", cells=[one.what for one in shown], rank=2),
    ]
    put(console, fitting(console, columns))
    if len(moved) > len(shown):
        console.print(f"  and {len(moved) - len(shown)} more: --tensors {len(moved)}")


def _share(one: "Moved") -> str:
    return "-" if one.relative is None else f"{100 * one.relative:.2f} %"


def _print_rest(found: "Difference", console: Console) -> None:
    old, new = found.epsilon
    if old != new:
        section(console, "privacy", [("epsilon", f"{number(old, 2)} -> {number(new, 2)}")])
    if found.joined or found.left:
        pairs = [("joined", ", ".join(found.joined)), ("left", ", ".join(found.left))]
        section(console, "sites whose updates count", pairs)
    for title, lines in (("configuration", found.config), ("environment", found.environment)):
        if lines:
            section(console, title, [(key, rest) for key, _, rest in (line.partition(": ") for line in lines)])
    if found.gates:
        changes = [
            (f"{one.gate} {one.slice}", f"{one.before or 'not asked'} -> {one.after or 'not asked'}")
            for one in found.gates
        ]
        section(console, "gates", changes)
