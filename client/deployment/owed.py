"""Answers that a SuperNode owes: it asks for the next message only when each that came has been answered.

Example::

    answer_all(start_client_internal)             # before flower_supernode()

Flower's SuperNode sends whatever answer is there, and then asks for the next message. An answer to an older question, of a run
that is over, would so take the place of the one that is due: that would be sent with the next message only, which a server that
waits for it does not send. [Flower 1.41: ``start_client_internal._push_messages``]
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType

from flwr.supernode.nodestate import NodeState

__all__ = ["answer_all", "owed"]


def answer_all(module: ModuleType) -> None:
    """Let a module of Flower's send answers until none is owed; one that has no place for it is left alone."""
    plain: Callable[..., None] | None = getattr(module, "_push_messages", None)
    if plain is not None:
        setattr(module, "_push_messages", partial(_until_none_is_owed, plain))  # noqa: B010  # Flower has no place for it


def _until_none_is_owed(plain: Callable[..., None], *, state: NodeState, **others: object) -> None:
    plain(state=state, **others)
    while owed(state):
        plain(state=state, **others)


def owed(state: NodeState) -> list[str]:
    """The messages that came and were not answered: Flower deletes each of them with its answer."""
    found = getattr(state, "msg_store", {})
    return [name for name, entry in found.items() if not entry.message.metadata.reply_to_message_id]
