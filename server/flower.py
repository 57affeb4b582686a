"""The one adapter between rounds and Flower: messages out, answers in, one at a time as they arrive.

Example::

    sites = FlowerSites(grid, deadline_s=60.0)                           # or with the public keys of those who may take part
    sites.names()                                            # ('amazon', 'movie', ...): each node says its name
    for reply in sites.train(request, state, ("amazon", "movie")):
        reply.site, reply.refused, reply.answer, reply.arrays
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedrelease.downlink import as_received, narrowed
from fedrelease.errors import FedreleaseError, RoundFailed
from fedrelease.messages import Request, parse_answer, request_text
from fedrelease.population import Population
from fedrelease.server.arrays import tensors_of
from fedrelease.server.coded import decoded, sent_bytes
from fedrelease.server.sites import Reply
from fedrelease.server.stragglers import Stragglers
from fedrelease.update import State

__all__ = ["FIRST_NODE", "POLL_S", "Connected", "FlowerSites", "first_answers"]

POLL_S = 0.01
FIRST_NODE = 2
"""Of a simulation's sites; 1 is the server."""
T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Connected(Protocol):
    """Who may take part, and who of them is there now."""

    def names(self) -> Sequence[str]:
        """All sites that may take part, sorted."""
        ...

    def nodes(self) -> Mapping[str, int]:
        """The node of each site that is connected now and takes part."""
        ...

    def why_not(self, site: str) -> str:
        """Why a site that is not among the nodes does not take part."""
        ...


class FlowerSites:
    """The sites behind a Flower ``Grid``, by their stable names; node ids stay in here."""

    def __init__(
        self,
        grid: Grid,
        *,
        deadline_s: float,
        population: int | None = None,
        connected: Connected | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Ask every node for its site's name; nodes of a simulated ``population`` are numbered as their sites are.

        Args:
            connected: who they are by their keys, where nodes have some: a name is then what the key says, and not what the
                node does.
            poll_s: how often a grid that has nothing yet is asked again.

        Raises:
            RoundFailed: two nodes claim one name, a name could not be a file's, or no node answered.
        """
        self._grid = grid
        self._deadline_s = deadline_s
        self._poll_s = poll_s
        self._names: Sequence[str]
        self._nodes: Callable[[], Mapping[str, int]]
        self._connected = connected
        if connected is not None:
            self._names, self._nodes = connected.names(), connected.nodes
        elif population is None:
            nodes = self._discover()
            self._names, self._nodes = tuple(sorted(nodes)), lambda: nodes
        else:
            numbered = _Numbered(Population(population))
            self._names, self._nodes = Population(population), lambda: numbered

    def names(self) -> Sequence[str]:
        """All sites, sorted."""
        return self._names

    def train(
        self,
        request: Request,
        state: State,
        sites: Sequence[str],
        companions: State | None = None,
        stragglers: Stragglers | None = None,
    ) -> Iterator[Reply]:
        """Ask ``sites`` to train from ``state``; answers come in the order in which they arrive, late ones as refused."""
        beside = {"companions": ArrayRecord(dict(companions))} if companions else {}
        came = as_received(state, request.experiment.transport)
        for reply in self._ask("train", request, {**_sent(request, came), **beside}, sites, stragglers):
            yield _as_trained(reply, request, came)

    def evaluate(
        self, request: Request, state: State, sites: Sequence[str], stragglers: Stragglers | None = None
    ) -> Iterator[Reply]:
        """Ask ``sites`` to evaluate ``state`` on their hold-outs."""
        return self._ask("evaluate", request, _sent(request, state), sites, stragglers)

    def _discover(self) -> dict[str, int]:
        content = RecordDict({"config": ConfigRecord({"ask": "site"})})
        nodes: dict[str, int] = {}
        asked = {str(node): node for node in self._grid.get_node_ids()}
        for (_, message), _ in _looking_ahead(self._stream("query", content, asked)):
            if message.has_error():
                continue
            site = _name_of(message)
            if site in nodes:
                raise RoundFailed(
                    "two nodes claim one site",
                    value=site,
                    rule="each site has a name of its own",
                    hint="stop one of them, or give it another name",
                )
            nodes[site] = message.metadata.src_node_id
        if not nodes:
            raise RoundFailed(
                "no site answered", rule="at least one site is there", hint="start a site, then run again"
            )
        return nodes

    def _ask(
        self,
        kind: str,
        request: Request,
        arrays: Mapping[str, ArrayRecord],
        sites: Sequence[str],
        stragglers: Stragglers | None,
    ) -> Iterator[Reply]:
        config = ConfigRecord({"server-round": request.round, "request": request_text(request)})
        content = RecordDict({**arrays, "config": config})
        silent = set(sites)
        watched = stragglers if self._connected is not None else None  # in a simulation nobody is late
        nodes = self._nodes()
        asked = {site: nodes[site] for site in sites if site in nodes}
        for (site, message), more in _looking_ahead(self._stream(kind, content, asked, watched)):
            silent.discard(site)
            yield replace(_reply_of(site, message), more=more)
        late = watched.reason if watched and watched.over() else f"no answer within {self._deadline_s:g} s"
        for site in sorted(silent):
            yield _silence(site, late if site in asked else self._why_not(site))

    def _why_not(self, site: str) -> str:
        return self._connected.why_not(site) if self._connected else "not connected"

    def _stream(
        self, kind: str, content: RecordDict, nodes: Mapping[str, int], stragglers: Stragglers | None = None
    ) -> Iterator[Iterator[tuple[str, Message]]]:
        until = _Until(self._deadline_s, stragglers)
        return _answers(self._grid, kind, content, nodes, until=until, poll_s=self._poll_s)


def first_answers(
    grid: Grid, config: ConfigRecord, nodes: Mapping[str, int], *, deadline_s: float, poll_s: float
) -> Mapping[str, Message]:
    """What each site says to a first query, by who was asked; those who say nothing in time are not there."""
    content = RecordDict({"config": config})
    arrivals = _answers(grid, "query", content, nodes, until=_Until(deadline_s), poll_s=poll_s)
    return dict(answer for together in arrivals for answer in together)


class _Until:
    """The end of waiting: a deadline, or before it what stragglers are allowed."""

    def __init__(self, deadline_s: float, stragglers: Stragglers | None = None) -> None:
        self._deadline_s, self._stragglers = deadline_s, stragglers
        self._end = 0.0

    def begin(self) -> None:
        self._end = time.monotonic() + self._deadline_s
        if self._stragglers is not None:
            self._stragglers.begin()

    def over(self) -> bool:
        return time.monotonic() >= self._end or (self._stragglers is not None and self._stragglers.over())


def _answers(
    grid: Grid, kind: str, content: RecordDict, nodes: Mapping[str, int], *, until: _Until, poll_s: float
) -> Iterator[Iterator[tuple[str, Message]]]:
    """Answers by who was asked, as they arrive; those that arrived together in one go.

    By who was asked: an error message may come from another node id than the one that was asked.
    """
    asked = sorted(nodes.items())
    messages = [Message(content, dst_node_id=node, message_type=kind) for _, node in asked]
    pending = dict(zip(grid.push_messages(messages), (name for name, _ in asked), strict=True))
    until.begin()
    while pending and not until.over():
        waited = len(pending)
        yield _awaited(grid.pull_messages(tuple(pending)), pending)
        if len(pending) == waited:  # a grid may answer at once that nothing is there
            time.sleep(poll_s)


def _awaited(messages: Iterable[Message], pending: dict[str, str]) -> Iterator[tuple[str, Message]]:
    """Each message that somebody waits for, with who was asked; nobody waits for it any more."""
    for message in messages:
        name = pending.pop(message.metadata.reply_to_message_id, None)
        if name is not None:
            yield name, message


def _looking_ahead(arrivals: Iterable[Iterator[T]]) -> Iterator[tuple[T, bool]]:
    """Every item, and whether another one has arrived with it and is at hand."""
    for together in arrivals:
        held: list[T] = []
        for item in together:
            if held:
                yield held.pop(), True
            held.append(item)
        if held:
            yield held.pop(), False


class _Numbered(Mapping[str, int]):
    """The nodes of a population: as many as there are names, and none of them written down."""

    def __init__(self, names: Population) -> None:
        self._names = names

    def __getitem__(self, site: str) -> int:
        if site not in self._names:
            raise KeyError(site)
        return FIRST_NODE + self._names.index(site)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _name_of(message: Message) -> str:
    config = message.content.config_records.get("config", ConfigRecord())
    site = config.get("site")
    if not isinstance(site, str) or NAME.fullmatch(site) is None:
        raise RoundFailed(
            "a node tells no usable name of a site",
            value=site,
            rule="a name has at most 80 lower-case letters, digits, '-', '_' and '.', and begins with a letter or digit",
            hint="mend that site's configuration",
        )
    return site


def _sent(request: Request, state: State) -> dict[str, ArrayRecord]:
    """The record of a state in the form in which it travels."""
    return {"arrays": ArrayRecord(narrowed(state, request.experiment.transport))}


def _silence(site: str, why: str) -> Reply:
    return Reply(site=site, refused=why)


def _as_trained(reply: Reply, request: Request, state: State) -> Reply:
    """The reply with what the site trained in the place of what it sent."""
    if reply.refused is not None:
        return reply
    try:
        arrays = decoded(request, state, reply.site, reply.arrays)
    except FedreleaseError as error:
        return replace(_silence(reply.site, str(error)), more=reply.more)
    return replace(reply, arrays=arrays, sent_bytes=sent_bytes(request, reply.arrays))


def _reply_of(site: str, message: Message) -> Reply:
    if message.has_error():
        return _silence(site, message.error.reason or f"error {message.error.code}")
    try:
        answer = parse_answer(str(message.content.config_records["config"]["answer"]))
        records = message.content.array_records
        arrays, companions = (tensors_of(records[kind]) if kind in records else {} for kind in ("arrays", "companions"))
    except FedreleaseError as error:
        return _silence(site, str(error))
    except Exception as error:  # a stranger's bytes: whatever Flower's decoding meets is that site's fault, not ours
        return _silence(site, f"the answer cannot be read: {type(error).__name__}: {error}")
    return Reply(site=site, answer=answer, arrays=arrays, companions=companions)
