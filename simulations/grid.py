"""A Flower Grid over the one-machine engine: the same ServerApp and ClientApp as in a deployment, without Ray.

Example::

    grid = LocalGrid(engine, nodes={1: {"site": "amazon", "data": "...", "home": "...", "base": "...", "noise": "seeded"}})
    server_app(watch)(grid, context)
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedrelease.errors import EngineError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import to_document
from fedrelease.files import Json
from fedrelease.messages import parse_request
from fedrelease.models.bases import Base
from fedrelease.simulations.engine import Outcome
from fedrelease.simulations.profiles import Clock
from fedrelease.simulations.wire import pack, unpack
from fedrelease.simulations.wire_group import unpack_group
from fedrelease.simulations.worker import INITIAL
from fedrelease.update import State

__all__ = ["LocalGrid", "Workers"]

WAIT_S = 0.05
ATTEMPTS = 3
GROUPED = (MessageType.TRAIN, MessageType.EVALUATE)
RUN_ID = 1
SERVER_NODE = 1


class Workers(Protocol):
    """What does a grid's tasks: the engine, or whoever takes its place in a benchmark.

    Attributes:
        handover: the folder through which tensors travel. workers: how many work at a time.
    """

    handover: Path
    workers: int

    def submit(self, task: str, frame: Mapping[str, Json]) -> None:
        """Queue a task; its outcome comes out of :meth:`collect` under the same name."""

    def collect(self, *, wait_s: float) -> Iterator[Outcome]:
        """What has been answered, waiting at most ``wait_s`` for the first."""


class LocalGrid(Grid):
    """Messages to sites on this machine. Replies are read one at a time, when they are asked for."""

    def __init__(
        self, engine: Workers, *, nodes: Mapping[int, Mapping[str, str]], abreast: int = 1, clock: Clock | None = None
    ) -> None:
        """``nodes``: each site's configuration by node id, from 2 upwards (1 is the server).

        ``abreast``: how many sites a worker is asked about at once, at most; fewer, where a worker would have nothing to do.
        ``clock``: of virtual time; a site that would not answer in time is not asked.
        """
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE
        self._engine = engine
        self._nodes = nodes
        self._run = Run.create_empty(RUN_ID)
        self._abreast, self.clock = abreast, clock
        self._refused: deque[tuple[Message, str]] = deque()
        self._asked: dict[str, tuple[Message, ...]] = {}
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
        asked = list(messages)
        for message in asked:
            self._number += 1
            message.metadata.__dict__["_message_id"] = str(self._number)
        for group in self._groups(self._in_time(asked)):
            self._push(group)
        return [message.metadata.message_id for message in asked]

    def _in_time(self, asked: Sequence[Message]) -> Sequence[Message]:
        """Those that will be answered; for the others a refusal lies ready."""
        if self.clock is None or not asked or asked[0].metadata.message_type != MessageType.TRAIN:
            return asked
        sites = [self._nodes[message.metadata.dst_node_id]["site"] for message in asked]
        content = asked[0].content
        size = sum(len(array.data) for record in content.array_records.values() for array in record.values())
        version = parse_request(str(content.config_records["config"]["request"])).version
        fates = self.clock.ask(version, sites, size_bytes=size)
        reasons = [(message, fates[site].refused) for message, site in zip(asked, sites, strict=True)]
        self._refused.extend((message, reason) for message, reason in reasons if reason is not None)
        return [message for message, reason in reasons if reason is None]

    def _groups(self, asked: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
        """Messages that carry one content may go together; each worker gets a share."""
        together = len({(id(one.content), one.metadata.message_type) for one in asked}) == 1
        together &= all(one.metadata.message_type in GROUPED for one in asked)
        size = min(self._abreast, max(1, len(asked) // self._engine.workers)) if together else 1
        for start in range(0, len(asked), size):
            yield tuple(asked[start : start + size])

    def _push(self, group: tuple[Message, ...]) -> None:
        first = group[0]
        self._asked[first.metadata.message_id] = group
        nodes = [dict(self._nodes[message.metadata.dst_node_id]) for message in group]
        whom: dict[str, Json] = {"node": nodes[0]} if len(nodes) == 1 else {"nodes": nodes}
        content = self._pack_once(first.content)
        frame = {"kind": first.metadata.message_type, "content": content, **whom}
        self._engine.submit(first.metadata.message_id, frame)

    def _pack_once(self, content: RecordDict) -> dict[str, Json]:
        """A cohort gets one content: its arrays are written to disk once, and replaced by the next content's."""
        if self._packed is None or self._packed[0] != id(content):
            if self._packed is not None:
                _remove_files(self._packed[1])
            self._packed = (id(content), pack(content, self._engine.handover))
            self._held = content  # while it is held, its id is nobody else's
        return self._packed[1]

    def close(self) -> None:
        """Remove the last content's files: the engine may go on to another grid."""
        if self._packed is not None:
            _remove_files(self._packed[1])
            self._packed = None

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that are there, waiting a moment for the first. A reply that nobody waits for any more is dropped."""
        wanted = set(message_ids)
        while self._refused:
            yield _reply(*self._refused.popleft())
        for task, outcome in self._engine.collect(wait_s=WAIT_S):
            group = self._asked.pop(task)
            for asked, content in zip(group, _contents(outcome, len(group)), strict=True):
                if asked.metadata.message_id in wanted:
                    yield _reply(asked, content)

    def initial_state(self, base: Base, experiment: Experiment, round: int = 0) -> State:
        """The state that training starts from with the labels of a round; for round 0 that of version 0.0.0.

        Made by a worker: it has base and libraries, and this process is spared them.

        A worker that dies over it is replaced, and the next one asked.

        Raises:
            EngineError: no worker could; where base and adapter do not fit, in the model's own words.
        """
        node: dict[str, Json] = {"base": str(base.folder.absolute()), "site": "none"}
        for _ in range(ATTEMPTS):
            document = to_document(experiment)
            self._engine.submit(INITIAL, {"kind": INITIAL, "experiment": document, "round": round, "node": node})
            outcome = self._outcome(INITIAL)
            if isinstance(refused := outcome.get("refused"), Mapping):
                told = {part: str(refused[part] or "") for part in ("what", "rule", "hint")}
                raise EngineError(told["what"], value=refused["value"], rule=told["rule"], hint=told["hint"])
            (found,) = _contents(outcome, 1)
            if not isinstance(found, str):
                return found.array_records["arrays"].to_torch_state_dict()
        raise EngineError("the first state could not be made", value=found, hint="read engine.log beside the sites")

    def _outcome(self, task: str) -> Mapping[str, Json]:
        """Wait for this task; nobody has asked for another."""
        while True:
            for done, outcome in self._engine.collect(wait_s=WAIT_S):
                if done == task:
                    return outcome

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


def _contents(outcome: Mapping[str, Json], count: int) -> Iterator[RecordDict | str]:
    """What each site of a task answered, or why it did not."""
    if "failed" in outcome:
        return iter([str(outcome["failed"])] * count)
    if "group" in outcome:
        return unpack_group(outcome)
    return iter([unpack(outcome["content"], consume=True)])


def _reply(asked: Message, content: RecordDict | str) -> Message:
    if isinstance(content, str):
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, content), reply_to=asked)
    return Message(content, reply_to=asked)


def _remove_files(packed: Mapping[str, Json]) -> None:
    arrays = packed["arrays"]
    for path in arrays.values() if isinstance(arrays, Mapping) else ():
        Path(str(path)).unlink(missing_ok=True)
