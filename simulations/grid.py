"""A Flower Grid over the one-machine engine: the same ServerApp and ClientApp as in a deployment, without Ray.

Example::

    grid = LocalGrid(engine, nodes={1: {"site": "amazon", "data": "...", "home": "...", "base": "...", "noise": "seeded"}})
    server_app(watch)(grid, context)
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedrelease.files import Json
from fedrelease.simulations.engine import Outcome
from fedrelease.simulations.wire import pack, unpack

__all__ = ["LocalGrid", "Workers"]

WAIT_S = 0.05
RUN_ID = 1
SERVER_NODE = 1


class Workers(Protocol):
    """What does a grid's tasks: the engine, or whoever takes its place in a benchmark.

    Attributes:
        handover: the folder through which tensors travel.
    """

    handover: Path

    def submit(self, task: str, frame: Mapping[str, Json]) -> None:
        """Queue a task; its outcome comes out of :meth:`collect` under the same name."""

    def collect(self, *, wait_s: float) -> Iterator[Outcome]:
        """What has been answered, waiting at most ``wait_s`` for the first."""


class LocalGrid(Grid):
    """Messages to sites on this machine. Replies are read one at a time, when they are asked for."""

    def __init__(self, engine: Workers, *, nodes: Mapping[int, Mapping[str, str]]) -> None:
        """``nodes``: each site's node configuration by node id, from 2 upwards (1 is the server)."""
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE
        self._engine = engine
        self._nodes = nodes
        self._run = Run.create_empty(RUN_ID)
        self._asked: dict[str, Message] = {}
        self._number = 0
        self._packed: tuple[int, dict[str, Json]] | None = None

    def set_run(self, run: Run) -> None:
        """Flower's own name for what this grid works on; nothing here depends on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All sites are always there."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for the workers; returns an id for each, in their order."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._number += 1
        task = str(self._number)
        message.metadata.__dict__["_message_id"] = task
        self._asked[task] = message
        node = self._nodes[message.metadata.dst_node_id]
        packed = self._pack_once(message.content)
        self._engine.submit(task, {"kind": message.metadata.message_type, "node": dict(node), "content": packed})
        return task

    def _pack_once(self, content: RecordDict) -> dict[str, Json]:
        """A cohort gets one content: its arrays are written to disk once, and replaced by the next content's."""
        if self._packed is None or self._packed[0] != id(content):
            if self._packed is not None:
                _remove_files(self._packed[1])
            self._packed = (id(content), pack(content, self._engine.handover))
            self._held = content  # while it is held, its id is nobody else's
        return self._packed[1]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that are there, waiting a moment for the first. A reply that nobody waits for any more is dropped."""
        wanted = set(message_ids)
        for task, outcome in self._engine.collect(wait_s=WAIT_S):
            asked = self._asked.pop(task)
            if "failed" in outcome:
                reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(outcome["failed"])), reply_to=asked)
            else:
                reply = Message(unpack(outcome["content"], consume=True), reply_to=asked)
            if task in wanted:
                yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send all and wait for all: for Flower's own strategies. Ours pull replies one at a time."""
        pending = set(self.push_messages(messages))
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        replies = []
        while pending and time.monotonic() < until:
            for reply in self.pull_messages(pending):
                pending.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies


def _remove_files(packed: Mapping[str, Json]) -> None:
    arrays = packed["arrays"]
    for path in arrays.values() if isinstance(arrays, Mapping) else ():
        Path(str(path)).unlink(missing_ok=True)
