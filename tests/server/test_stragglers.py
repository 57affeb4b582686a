"""When a step of a round stops waiting: the rule on a clock of the test's own, then real messages, then whole rounds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sites import START, FakeSites, make_experiment, make_setting, run
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrelease.cli import run as command
from fedrelease.errors import RoundFailed
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest, to_document
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.messages import Answer, Request, answer_text
from fedrelease.server.events import Event, NotWaitedFor, event_facts, event_of
from fedrelease.server.flower import FlowerSites
from fedrelease.server.gather import gather_updates
from fedrelease.server.sites import Reply
from fedrelease.server.spool import Spool
from fedrelease.server.stragglers import Stragglers, is_late
from fedrelease.update import State

LATE = "late: the quorum has answered, and 2 times its median time was over"
Capture = pytest.CaptureFixture[str]


class Clock:
    """Seconds that the test turns on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def after(clock: Clock, *times: float, quorum: int, factor: float = 2.0, least_s: float = 0.0) -> Stragglers:
    """Answers came so many seconds after all were asked."""
    made = Stragglers(factor=factor, quorum=quorum, least_s=least_s, clock=clock)
    clock.now = 1000.0
    made.begin()
    for time in times:
        clock.now = 1000.0 + time
        made.answered()
    return made


# The rule


def test_before_the_quorum_nobody_is_late_however_long_it_takes() -> None:
    clock = Clock()
    waiting = after(clock, 1.0, quorum=2)
    clock.now = 1e9
    assert waiting.allowed_s is None and not waiting.over()


def test_after_the_quorum_the_rest_has_the_factor_times_the_median() -> None:
    """Times 4, 6 and 20: the median is 6, twice that is 12."""
    clock = Clock()
    waiting = after(clock, 4.0, 6.0, 20.0, quorum=3)
    assert waiting.allowed_s == 12.0
    clock.now = 1011.9
    assert not waiting.over()
    clock.now = 1012.0
    assert waiting.over()


def test_a_slow_majority_gives_the_rest_more_time_and_never_less() -> None:
    """4 alone: 8. Then 4 and 6: twice 5 is 10. Then 7: twice 6 is 12."""
    clock = Clock()
    allowed = []
    waiting = after(clock, quorum=1)
    for time in (4.0, 6.0, 7.0):
        clock.now = 1000.0 + time
        waiting.answered()
        allowed.append(waiting.allowed_s)
    assert allowed == [8.0, 10.0, 12.0]


def test_everybody_has_ten_seconds_whatever_the_others_took() -> None:
    clock = Clock()
    assert after(clock, 0.1, quorum=1, least_s=10.0).allowed_s == 10.0
    assert after(clock, 6.0, quorum=1, least_s=10.0).allowed_s == 12.0


def test_a_quorum_that_was_in_the_spool_already_still_waits_for_one_time_to_go_by() -> None:
    assert after(Clock(), quorum=0).allowed_s is None
    assert after(Clock(), 3.0, quorum=-1).allowed_s == 6.0


# The key


def test_without_the_key_an_experiment_is_the_one_that_it_always_was() -> None:
    plain = Experiment()
    assert "straggler" not in to_toml(plain) and "straggler" not in json.dumps(to_document(plain))
    wished = load_experiment(None, ["federation.straggler_factor=2"], text="")
    assert wished.federation.straggler_factor == 2.0
    assert experiment_digest(wished) != experiment_digest(plain)
    assert load_experiment(None, text=to_toml(wished)) == wished


# Real messages


class Everybody:
    """All are connected: a deployment's sites, by name and node."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def names(self) -> Sequence[str]:
        return self._names

    def nodes(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self._names, start=10)}

    def why_not(self, site: str) -> str:
        return f"{site} is away"


class Grid:
    """Answers of each node come at its time on the clock, which goes on a second with each look; ``None`` = never."""

    def __init__(self, clock: Clock, **takes: float | None) -> None:
        self._clock, self._takes = clock, list(takes.items())
        self._waiting: dict[str, tuple[float | None, Message]] = {}
        self.kinds: list[tuple[str, str]] = []

    def get_node_ids(self) -> list[int]:
        return list(range(10, 10 + len(self._takes)))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            site, takes = self._takes[message.metadata.dst_node_id - 10]
            task = message.metadata.__dict__["_message_id"] = f"{len(self.kinds)}"
            self.kinds.append((message.metadata.message_type, site))
            due = None if takes is None else self._clock() + takes
            self._waiting[task] = (due, self._answer(message, site))
            ids.append(task)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self._clock.now += 1
        found = ((task, self._waiting[task]) for task in message_ids)
        return [reply for _, (due, reply) in found if due is not None and due <= self._clock()]

    @staticmethod
    def _answer(message: Message, site: str) -> Message:
        if message.metadata.message_type == "query":
            return Message(RecordDict({"config": ConfigRecord({"site": site})}), reply_to=message)
        answer = answer_text(Answer(site=site, examples=10, metrics={"steps": 1.0}))
        came = message.content.array_records["arrays"].to_torch_state_dict()
        arrays = ArrayRecord({name: tensor + 1 for name, tensor in came.items()})
        return Message(RecordDict({"config": ConfigRecord({"answer": answer}), "arrays": arrays}), reply_to=message)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's messages ask for in a process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


REQUEST = Request(experiment=make_experiment(), version="0.1.1", round=1, base="0" * 64, directives={})


def train(grid: Grid, waiting: Stragglers, *, deployed: bool = True) -> dict[str, str | None]:
    """Ask all to train; whoever answers counts. Why each does not."""
    names = [site for site, _ in grid._takes]
    sites = FlowerSites(grid, deadline_s=0.5, connected=Everybody(*names) if deployed else None, poll_s=0.0)  # type: ignore[arg-type]
    refused = {}
    for reply in sites.train(REQUEST, START, names, None, waiting):
        refused[reply.site] = reply.refused
        if reply.refused is None:
            waiting.answered()
    return refused


def test_who_is_late_is_refused_by_that_name_and_who_is_slow_but_in_time_counts() -> None:
    """a and b took 2 and 3 s, c 4 s: twice the median of 2 and 3 is 5. The fourth would take 60."""
    clock = Clock()
    waiting = Stragglers(factor=2.0, quorum=2, least_s=0.0, clock=clock)
    found = train(Grid(clock, a=2.0, b=3.0, c=4.0, d=60.0), waiting)
    assert found == {"a": None, "b": None, "c": None, "d": LATE}
    assert is_late(LATE) and is_late(f"hold-out: {LATE}") and not is_late("no answer within 60 s")


def test_without_a_quorum_the_deadline_ends_it_as_before() -> None:
    clock = Clock()
    waiting = Stragglers(factor=1.0, quorum=2, least_s=0.0, clock=clock)
    assert train(Grid(clock, a=1.0, b=None), waiting) == {"a": None, "b": "no answer within 0.5 s"}


def test_in_a_simulation_nobody_is_late() -> None:
    """The same grid, whose nodes are a simulation's: the slow one answers, however long the others had answered before."""
    clock = Clock()
    waiting = Stragglers(factor=1.0, quorum=1, least_s=0.0, clock=clock)
    assert train(Grid(clock, a=1.0, b=500.0), waiting, deployed=False) == {"a": None, "b": None}


# Whole rounds


def late(reply: Reply) -> Reply:
    """What the adapter makes of a site that nobody waits for any more."""
    return replace(reply, refused=LATE, answer=None, arrays={})


def round_with_c_late(folder: Path, *, quorum: float = 0.5) -> tuple[FakeSites, list[Event]]:
    """Two rounds of a, b and c, in which c is late."""
    sites, events = FakeSites(("a", "b", "c"), spoil={"c": late}), list[Event]()
    experiment = make_experiment(quorum=quorum)
    federation = replace(experiment.federation, straggler_factor=2.0)
    setting = make_setting(folder, sites, experiment=replace(experiment, federation=federation))
    run(replace(setting, watch=events.append))
    return sites, events


def test_a_late_site_loses_its_round_and_nothing_else_and_the_log_names_it(tmp_path: Path, capsys: Capture) -> None:
    sites, events = round_with_c_late(tmp_path)
    assert [event.sites for event in events if isinstance(event, NotWaitedFor)] == [("c",)] * 2
    assert sites.trained("0.1.1") == sites.trained("0.1.2") == ["a", "b", "c"], "it is asked again in the next round"
    evaluated = {site for step, version, site in sites.asked if (step, version) == ("evaluate", "0.1.1")}
    assert evaluated == {"a", "b"}, "who still trains is not asked to look at the candidate as well"
    assert command(["log", "--store", str(tmp_path), "--json"]) == 0
    told = {one["version"]: one for one in json.loads(capsys.readouterr().out)["releases"]}
    assert (told["0.1.1"]["late"], told["0.1.1"]["accepted"], told["0.0.0"]["late"]) == (["c"], ["a", "b"], [])
    assert told["0.1.1"]["refused"] == [{"site": "c", "reason": LATE}]


def test_the_event_survives_its_way_through_a_log() -> None:
    event = NotWaitedFor(version="0.1.1", step="train", sites=("c",), allowed_s=12.0, median_s=6.0)
    assert event_of(json.loads(json.dumps(event_facts(event)))) == event


def test_an_answer_that_is_screened_out_does_not_count_for_the_quorum(tmp_path: Path) -> None:
    """Else a site that sends nonsense quickly would end the round for honest ones."""
    spoil: dict[str, Callable[[Reply], Reply]] = {"a": lambda reply: replace(reply, arrays={})}
    sites, heard = FakeSites(("a", "b", "c"), spoil=spoil), list[Stragglers]()
    plain = sites.train

    def train(
        request: Request, state: State, names: Sequence[str], companions: State | None, stragglers: Stragglers
    ) -> object:
        heard.append(stragglers)
        return plain(request, state, names, companions)

    sites.train = train  # type: ignore[method-assign, assignment]
    experiment = make_experiment()
    federation = replace(experiment.federation, straggler_factor=2.0)
    setting = make_setting(tmp_path, sites, experiment=replace(experiment, federation=federation))
    spool = Spool(tmp_path / "spool", parent="sha256:" + "0" * 64)
    asked = replace(REQUEST, experiment=setting.experiment)
    refused = gather_updates(setting, asked, START, ("a", "b", "c"), spool, companions={}, kinds=())
    assert sorted(refused) == ["a"]
    assert [len(one._took) for one in heard] == [2]


def test_a_round_whose_quorum_is_not_reached_still_fails(tmp_path: Path) -> None:
    with pytest.raises(RoundFailed, match="late: the quorum"):
        round_with_c_late(tmp_path, quorum=1.0)
