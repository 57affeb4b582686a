"""A Grid around another one, in which hostile sites send something else than they trained.

Example::

    with grid_of(nodes) as grid:
        server_app(watch)(with_hostile(grid, experiment, {3: "site-01"}), context)

Sites train and answer as ever; their code knows of no attack. Honest answers pass through. Those of hostile sites are held
until all hostile sites of the round have answered, so that colluding ones can know of each other: as many states are in memory.
"""

import time
from collections.abc import Iterable, Iterator, Mapping

import numpy
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrelease.downlink import widened
from fedrelease.experiment import Experiment
from fedrelease.messages import parse_request
from fedrelease.server.arrays import array_of, tensors_of
from fedrelease.simulations.attacks import crafted
from fedrelease.update import State

__all__ = ["HostileGrid", "with_hostile"]

ARRAYS = "arrays"


def with_hostile(grid: Grid, experiment: Experiment, hostile: Mapping[int, str]) -> Grid:
    """The grid itself, where no site sends anything else than it trained; else one around it.

    Args:
        hostile: names of the hostile sites, by node id.
    """
    changes = bool(hostile) and not experiment.attack.poisons_rows
    return HostileGrid(grid, experiment, hostile) if changes else grid


class HostileGrid(Grid):
    """See the module."""

    def __init__(self, inner: Grid, experiment: Experiment, hostile: Mapping[int, str]) -> None:
        """``hostile``: names of the hostile sites, by node id."""
        self._inner, self._experiment, self._hostile = inner, experiment, hostile
        self._asked: dict[str, Message] = {}
        self._held: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Flower's own name for what this grid works on."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Those of the inner grid."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass messages on, and note who of the hostile sites is asked to train."""
        asked = list(messages)
        names = list(self._inner.push_messages(asked))
        if any(message.metadata.message_type == MessageType.TRAIN for message in asked):
            self._asked, self._held = {}, {}  # nobody waits for an earlier round any more
        for name, message in zip(names, asked, strict=True):
            if message.metadata.message_type == MessageType.TRAIN and message.metadata.dst_node_id in self._hostile:
                self._asked[name] = message
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Honest answers as they come, hostile ones together once the last of them is there."""
        for reply in self._inner.pull_messages(message_ids):
            name = reply.metadata.reply_to_message_id
            if name not in self._asked:
                yield reply
            elif reply.has_error():
                del self._asked[name]
                yield reply
            else:
                self._held[name] = reply
        if self._held and self._held.keys() == self._asked.keys():
            asked, held, self._asked, self._held = self._asked, self._held, {}, {}
            yield from self._changed(asked, held)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send all and wait for all."""
        pending, replies = set(self.push_messages(messages)), list[Message]()
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        while pending and time.monotonic() < until:
            for reply in self.pull_messages(pending):
                pending.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def _changed(self, asked: Mapping[str, Message], held: Mapping[str, Message]) -> Iterator[Message]:
        """The replies with what their sites send instead."""
        sites = {name: self._hostile[message.metadata.dst_node_id] for name, message in asked.items()}
        content = next(iter(asked.values())).content
        parent = widened(tensors_of(content.array_records[ARRAYS]), self._experiment.transport)
        trained = {sites[name]: _delta(reply, parent) for name, reply in held.items()}
        version = parse_request(str(content.config_records["config"]["request"])).version
        sent = crafted(self._experiment.attack, trained, key=f"{self._experiment.federation.seed}\x1f{version}")
        for name, reply in held.items():
            _replace(reply, parent, sent[sites[name]])
            yield reply


def _delta(reply: Message, parent: State) -> State:
    """Of the tensors that were sent out; what else a site sends stays as it is."""
    trained = tensors_of(reply.content.array_records[ARRAYS])
    return {name: tensor - parent[name] for name, tensor in trained.items() if name in parent}


def _replace(reply: Message, parent: State, delta: State) -> None:
    arrays = dict(reply.content.array_records[ARRAYS].items())
    for name, change in delta.items():
        arrays[name] = array_of(numpy.ascontiguousarray((parent[name] + change).numpy()))
    reply.content[ARRAYS] = ArrayRecord(arrays)
