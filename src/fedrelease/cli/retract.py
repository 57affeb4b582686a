"""``retract``: rebuild the line of releases without a site's updates.

Example::

    fedrelease retract north --reason "it asked to leave"
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.move import Actor, Reason
from fedrelease.cli.output import emit_json, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.retraction import Retracted

__all__ = ["LIMITS", "retract"]

LIMITS = (
    "The updates of {sites} are out of the sums. What other sites learned from releases that had them in is still in their",
    "own updates: this is no unlearning. Privacy that was spent stays spent, and the replaced releases stay in the store.",
)


def retract(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
    reason: Reason = None,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the line of releases without a site's updates.

    Every round that had one, and those after it, are computed again from the updates that were kept (federation.keep_updates) and
    published under new versions. It takes the site's own updates out of the sums and is no unlearning of what others learned from
    them. No channel moves, and nobody has evaluated the new releases yet.
    """
    from fedrelease.cache import cache_folder
    from fedrelease.server.beginnings import Beginnings
    from fedrelease.server.lifecycle import By
    from fedrelease.server.retraction import retract as rebuild

    opened = open_store(store, writing=True)
    by = By(reason=reason, actor=actor) if actor else By(reason=reason)
    with opened.lock():
        done = rebuild(opened, site, by=by, beginnings=Beginnings(cache_folder()))
    if as_json:
        pairs = [{"replaced": old, "version": new} for old, new in done.rebuilt]
        emit_json({**asdict(done), "rebuilt": pairs, "reason": reason, "actor": by.actor})
    else:
        for line in _lines(done, site):
            to_stdout().print(plain(line))


def _lines(done: "Retracted", site: str) -> Iterator[str]:
    for old, new in done.rebuilt:
        yield f"{new}  rebuilds {old}" + ("  held" if new in done.held else "")
    yield from (line.format(sites=" and ".join(done.sites)) for line in LIMITS)
    yield "Nobody has evaluated the new releases, and no channel moved."
    for channel, version in done.serving.items():
        promote = f'fedrelease promote {done.head} --to {channel} --reason "without {site}"'
        yield f"{channel} still points at {version}" + (f": {promote}" if done.head not in done.held else "")
