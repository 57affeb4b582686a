"""What a server learns of a site before it asks for work: real messages, answered by functions in the place of sites."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fedrelease import __version__
from fedrelease.deployment.bundle import bundle, flower_version
from fedrelease.deployment.certificates import new_key, public_line
from fedrelease.deployment.logs import Log
from fedrelease.errors import PolicyRefused, RoundFailed
from fedrelease.experiment import Experiment
from fedrelease.messages import Request, parse_request
from fedrelease.server.deployment.application import AdmittedSites
from fedrelease.server.deployment.control import key_bytes
from fedrelease.server.deployment.first_query import FirstQuery
from fedrelease.server.flower import FlowerSites

KEYS = {name: public_line(new_key().public_key()).decode() for name in ("amazon", "movie", "tweets")}
Act = Callable[[Message], Message | None]


@dataclass(frozen=True)
class Node:
    """As a grid tells of it."""

    node_id: int
    public_key: bytes


@dataclass
class Grid:
    """Carries messages to functions by the site whose key they have."""

    acts: dict[str, Act]
    asked: list[tuple[int, str]] = field(default_factory=list)
    waiting: dict[str, Message | None] = field(default_factory=dict)
    generation: int = 0
    keys: dict[str, str] = field(default_factory=lambda: dict(KEYS))
    connected: dict[str, str] = field(default_factory=lambda: dict(KEYS))

    def get_nodes(self) -> Iterator[Node]:
        for place, name in enumerate(sorted(self.acts), start=10):
            yield Node(place + self.generation, key_bytes(self.connected[name]))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            name = sorted(self.acts)[message.metadata.dst_node_id - 10 - self.generation]
            task = message.metadata.__dict__["_message_id"] = str(len(self.asked))
            self.asked.append((message.metadata.dst_node_id, message.metadata.message_type))
            self.waiting[task] = self.acts[name](message)
            ids.append(task)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for task in message_ids if (reply := self.waiting.get(task)) is not None]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's messages ask for in a process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def says(site: str, **other: str) -> Act:
    facts = {"fedrelease": __version__, "flower": flower_version(), "bundle": bundle().digest, "refused": ""}
    record = ConfigRecord({"site": site, **facts, **other})
    return lambda message: Message(RecordDict({"config": record}), reply_to=message)


def fails(code: int, reason: str) -> Act:
    return lambda message: Message(Error(code=code, reason=reason), reply_to=message)


def sites(grid: Grid, folder: Path) -> AdmittedSites:
    query = FirstQuery(grid=grid, experiment=Experiment(), base="b" * 64, poll_s=0.01)  # type: ignore[arg-type]

    def soon(nodes: dict[str, int], *, within_s: float) -> object:
        return query(nodes, within_s=min(within_s, 0.1))

    return AdmittedSites(
        grid,
        lambda: {name: grid.keys[name] for name in grid.acts},
        ask=soon,
        log=Log(folder / "events.log", process="test"),
    )  # type: ignore[arg-type]


def test_a_site_that_is_as_it_should_be_takes_part_and_is_asked_once(tmp_path: Path) -> None:
    grid = Grid({"amazon": says("amazon"), "movie": says("movie")})
    found = sites(grid, tmp_path)
    found.wait_for(at_most_s=1)
    assert found.nodes() == found.nodes() == {"amazon": 10, "movie": 11}
    assert grid.asked == [(10, "query"), (11, "query")]


def test_a_site_that_comes_back_with_a_key_that_was_admitted_meanwhile_takes_part_again(tmp_path: Path) -> None:
    grid = Grid({"amazon": says("amazon"), "movie": says("movie")})
    found, other = sites(grid, tmp_path), public_line(new_key().public_key()).decode()
    assert found.nodes() == {"amazon": 10, "movie": 11}
    grid.connected["amazon"] = other
    assert found.nodes() == {"movie": 11}
    grid.keys["amazon"], grid.generation = other, 2
    assert found.nodes() == {"amazon": 12, "movie": 13}


def test_the_query_carries_the_whole_experiment_and_its_base(tmp_path: Path) -> None:
    seen: list[Request] = []

    def look(message: Message) -> Message | None:
        seen.append(parse_request(str(message.content.config_records["config"]["request"])))
        return says("amazon")(message)

    sites(Grid({"amazon": look}), tmp_path).nodes()
    assert (seen[0].experiment, seen[0].base, seen[0].round) == (Experiment(), "b" * 64, 0)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (says("movie"), "it says site = movie; its key is that of amazon"),
        (says("amazon", fedrelease="0.0.9"), f"it says fedrelease = 0.0.9; the server has fedrelease {__version__}"),
        (says("amazon", flower="1.0"), f"it says flower = 1.0; the server has Flower {flower_version()}"),
        (says("amazon", bundle="f" * 64), f"it says bundle = {'f' * 64}; the server's app is {bundle().digest[:16]}"),
        (says("amazon", refused="policy.epsilon: at most 4, asked 8."), "policy.epsilon: at most 4, asked 8."),
        (
            fails(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "this site\x1b[2J\ndoes not know"),
            "this site\\x1b[2J does not know",
        ),
    ],
)
def test_a_site_that_differs_is_left_out_with_its_reason_and_the_others_go_on(
    tmp_path: Path, act: Act, why: str
) -> None:
    found = sites(Grid({"amazon": act, "movie": says("movie")}), tmp_path)
    found.wait_for(at_most_s=1)
    assert found.nodes() == {"movie": 11} and found.why_not("amazon") == why
    assert found.names() == ("amazon", "movie"), "cohorts are those of a simulation"
    assert '"event": "left-out", "site": "amazon"' in (tmp_path / "events.log").read_text()


def test_in_its_rounds_a_site_that_was_left_out_is_refused_with_its_reason(tmp_path: Path) -> None:
    grid = Grid({"amazon": says("amazon", refused="policy.rank: at most 4, asked 8")})
    flower = FlowerSites(grid, deadline_s=1.0, connected=sites(grid, tmp_path))  # type: ignore[arg-type]
    asked = Request(experiment=Experiment(), version="0.1.1", round=1, base="b" * 64, directives={})
    (reply,) = flower.train(asked, {}, ("amazon",))
    assert reply.refused == "policy.rank: at most 4, asked 8"
    assert [kind for _, kind in grid.asked] == ["query"]


def test_when_every_site_refuses_the_run_ends_and_says_what_each_said(tmp_path: Path) -> None:
    grid = Grid({name: says(name, refused="policy.epsilon: at most 4, asked 8") for name in ("amazon", "movie")})
    with pytest.raises(PolicyRefused, match="amazon: policy.epsilon.*movie: policy.epsilon"):
        sites(grid, tmp_path).wait_for(at_most_s=1)


def test_a_site_whose_process_is_not_there_yet_is_asked_again(tmp_path: Path) -> None:
    grid = Grid({"amazon": lambda message: None, "movie": fails(ErrorCode.NODE_UNAVAILABLE, "gone")})
    found = sites(grid, tmp_path)
    with pytest.raises(RoundFailed, match="no site is connected"):
        found.wait_for(at_most_s=0)
    assert found.why_not("amazon") == "it did not answer the first query"
    grid.acts |= {"amazon": says("amazon"), "movie": says("movie")}
    assert found.nodes() == {"amazon": 10, "movie": 11}


def test_a_site_that_comes_back_as_another_node_is_asked_anew(tmp_path: Path) -> None:
    grid = Grid({"amazon": says("amazon", fedrelease="0.0.9")})
    found = sites(grid, tmp_path)
    assert found.nodes() == {}
    grid.acts["amazon"], grid.generation = says("amazon"), 5
    assert found.nodes() == {"amazon": 15}
