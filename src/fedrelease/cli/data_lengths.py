"""``fedrelease data lengths``: how long the gradients of single rows are, to choose ``privacy.clip``.

Example::

    fedrelease data lengths my.toml
    fedrelease data lengths sotu-private --rows 32 --json
"""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedrelease.cli.options import AsJson, Settings
from fedrelease.cli.output import emit_json, put, table, to_stderr, to_stdout
from fedrelease.files import Json

if TYPE_CHECKING:
    from fedrelease.simulations.lengths import Lengths

__all__ = ["advice", "lengths", "lengths_document", "print_lengths"]

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
FAR = 2.0
"""From how many times the middle length on a clip is called larger than it has to be."""


def lengths(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A TOML file or a built-in experiment [default: default].")
    ] = None,
    settings: Settings = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Whose rows [default: the first site's].")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="At most so many, of all that it has.", min=2)] = 64,
    as_json: AsJson = False,
) -> None:
    """Say how long the gradients of single rows are at version 0.0.0, and what that means for privacy.clip.

    Noise is in proportion to privacy.clip: where no gradient is as long, it is larger than it has to be. Nothing is trained,
    charged or kept. The lengths come from rows, and no budget pays for the look: use rows that you may look at.
    """
    from fedrelease.cache import cache_folder
    from fedrelease.cli.simulate import load
    from fedrelease.simulations.lengths import gradient_lengths

    experiment, talk = load(file, settings or [], None), to_stderr()
    found = gradient_lengths(experiment, site=site, rows=rows, cache=cache_folder(), say=talk.print)
    if as_json:
        emit_json(lengths_document(found))
    else:
        print_lengths(found, to_stdout())


def lengths_document(found: "Lengths") -> dict[str, Json]:
    """What ``--json`` prints."""
    return {
        "site": found.site,
        "rows": len(found.lengths),
        "rows_of_site": found.site_rows,
        "numbers": found.numbers,
        "clip": found.clip,
        "longer_than_clip": round(found.cut, 4),
        "lengths": {f"{share:g}": found.at(share) for share in SHARES},
    }


def print_lengths(found: "Lengths", console: Console) -> None:
    """One line on what was looked at, the lengths, and what to make of them."""
    of = f"{len(found.lengths)} of {found.site_rows:,} training rows of {found.site}"
    console.print(f"{of}: lengths of the gradients of {found.numbers:,} numbers\n")
    shown = table(*(f"{share:.0%}>" for share in SHARES))
    shown.add_row(*(f"{found.at(share):.3g}" for share in SHARES))
    put(console, shown)
    console.print(f"\n{advice(found)}")


def advice(found: "Lengths") -> str:
    """What to make of the lengths, in a sentence or two that name the key."""
    middle = found.at(0.5)
    longer = f"{found.cut:.0%} of these gradients are longer, and are shortened to that"
    told = f"privacy.clip is {found.clip:g}: {longer if found.cut else 'none of these gradients is longer'}."
    if middle == 0:
        return f"{told}\nHalf of the rows have no gradient at all: nothing can be learned of them here."
    times = found.clip / middle
    if times < FAR:
        return told
    less = f"With --set privacy.clip={middle:.2g}, the middle length, noise would be {times:.0f} times smaller"
    return f"{told}\n{less}, at the same epsilon."
