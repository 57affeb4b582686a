"""``promote``, ``rollback``, ``yank``, ``pause`` and ``resume``: move channels, with a reason, for the log.

Example::

    fedrelease promote 0.2.1 --to stable --reason "two weeks in beta"
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.lifecycle import By, Moved
    from fedrelease.server.store import Store

__all__ = ["pause", "promote", "resume", "rollback", "yank"]

Ref = Annotated[str, typer.Argument(metavar="REF", help="A version, a channel or a digest.")]
Channel = Annotated[str, typer.Argument(metavar="CHANNEL", help="candidate, canary, beta, stable or anchor.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the log.")]
Actor = Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Who [default: your user name].")]


def promote(
    ref: Ref,
    to: Annotated[str, typer.Option("--to", metavar="CHANNEL", help="candidate, canary, beta, stable or anchor.")],
    reason: Reason = None,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Point a channel at a release.

    The release must have passed its gates and every byte of it must be there. A channel that is paused does not move.
    """
    from fedrelease.server import lifecycle

    _do(store, lambda opened, by: lifecycle.promote(opened, ref, to=to, by=by), reason, actor, as_json)


def rollback(
    channel: Channel,
    reason: Reason = None,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Point a channel at what it pointed at before.

    That release is read and checked before the channel moves. Rolling back twice goes two releases back.
    """
    from fedrelease.server import lifecycle

    _do(store, lambda opened, by: lifecycle.rollback(opened, channel, by=by), reason, actor, as_json)


def yank(
    ref: Ref,
    reason: Reason = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it be promoted again; no channel moves.")] = False,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Take a release from everybody.

    Its channels go back to what they pointed at before, and it cannot be promoted. It stays in the store, and rounds go on from
    the newest release all the same. A reason is needed.
    """
    from fedrelease.server import lifecycle

    act = lifecycle.unyank if undo else lifecycle.yank
    _do(store, lambda opened, by: act(opened, ref, by=by), reason, actor, as_json)


def pause(
    channel: Channel,
    reason: Reason = None,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Let neither rounds nor promote move a channel.

    A rollback still does. `fedrelease resume` ends it.
    """
    from fedrelease.server import lifecycle

    _do(store, lambda opened, by: lifecycle.pause(opened, channel, by=by), reason, actor, as_json)


def resume(
    channel: Channel,
    reason: Reason = None,
    actor: Actor = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Let a paused channel move again."""
    from fedrelease.server import lifecycle

    _do(store, lambda opened, by: lifecycle.resume(opened, channel, by=by), reason, actor, as_json)


def _do(
    folder: Path, act: "Callable[[Store, By], Moved]", reason: str | None, actor: str | None, as_json: bool
) -> None:
    from fedrelease.server.lifecycle import By

    opened = open_store(folder, writing=True)
    by = By(reason=reason, actor=actor) if actor else By(reason=reason)
    with opened.lock():
        moved = act(opened, by)
    if as_json:
        emit_json({**asdict(moved), "reason": reason, "actor": by.actor})
    else:
        for line in _lines(moved):
            to_stdout().print(plain(line))


def _lines(moved: "Moved") -> list[str]:
    """What happened, one line a channel."""
    said = {"yank": f"{moved.version} is yanked", "unyank": f"{moved.version} may be promoted again"}
    said |= {"pause": "paused", "resume": "moves again"}
    first = [said[moved.verb]] if moved.verb in said else []
    ways = [f"{name}: {old or 'nothing'} -> {moved.after[name] or 'nothing'}" for name, old in moved.before.items()]
    return [*first, *ways] or ["nothing to do: it is so already"]
