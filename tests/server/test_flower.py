"""The adapter to Flower with a grid in this process that carries real messages."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from io import BytesIO

import numpy
import pytest
import torch
from fake_sites import MATRIX, START, make_experiment
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from fedrelease.codecs import encode
from fedrelease.errors import RoundFailed
from fedrelease.messages import Answer, Request, answer_text, parse_request
from fedrelease.server.flower import FlowerSites
from fedrelease.transport import Transport
from fedrelease.update import state_bytes

REQUEST = Request(experiment=make_experiment(), version="0.1.1", round=1, base="0" * 64, directives={"mu": 0.5})
Node = Callable[[Message], Message | None]


class Grid:
    """Carries messages to functions. A node that returns ``None`` never answers."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = dict(enumerate(nodes, start=10))
        self._waiting: dict[str, Message | None] = {}
        self.pushed: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        task = message.metadata.__dict__["_message_id"] = str(len(self.pushed) + 1)
        self.pushed.append(message)
        self._waiting[task] = self._nodes[message.metadata.dst_node_id](message)
        return task

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The last ones first, each twice: order must not matter, and a repeated answer must not count."""
        for task in reversed(tuple(message_ids)):
            reply = self._waiting.get(task)
            if reply is not None:
                yield from (reply, reply)


@pytest.fixture(autouse=True)
def identity() -> None:
    """What Flower's messages ask for in a process."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def node(site: str, act: Node | None = None) -> Node:
    """A node that tells its name and trains by adding one."""

    def answer(message: Message) -> Message | None:
        if message.metadata.message_type == "query":
            return Message(RecordDict({"config": ConfigRecord({"site": site})}), reply_to=message)
        return act(message) if act else reply(message, Answer(site=site, examples=3, metrics={}))

    return answer


def reply(message: Message, answer: Answer) -> Message:
    records = RecordDict({"config": ConfigRecord({"answer": answer_text(answer)})})
    if message.metadata.message_type == "train":
        state = message.content.array_records["arrays"].to_torch_state_dict()
        records["arrays"] = ArrayRecord({name: value + 1 for name, value in state.items()})
    return Message(records, reply_to=message)


def flower_sites(*nodes: Node, deadline_s: float = 60.0) -> FlowerSites:
    return FlowerSites(Grid(*nodes), deadline_s=deadline_s)  # type: ignore[arg-type]  # the three methods that it uses


def test_sites_are_known_by_the_names_that_their_nodes_tell_in_whatever_order() -> None:
    assert flower_sites(node("b"), node("a"), node("c.d-e_f")).names() == ("a", "b", "c.d-e_f")


def test_a_site_gets_state_and_request_and_its_tensors_come_back_under_its_name() -> None:
    grid = Grid(node("b"), node("a"))
    sites = FlowerSites(grid, deadline_s=60.0)  # type: ignore[arg-type]  # the three methods that it uses
    replies = {reply.site: reply for reply in sites.train(REQUEST, START, ("a", "b"))}
    assert replies.keys() == {"a", "b"}
    assert all(torch.equal(replies["a"].arrays[name], START[name] + 1) for name in START)
    assert replies["b"].answer == Answer(site="b", examples=3, metrics={})
    assert parse_request(str(grid.pushed[-1].content.config_records["config"]["request"])) == REQUEST


def test_companions_travel_in_a_record_of_their_own_and_only_where_there_are_any() -> None:
    def train(message: Message) -> Message:
        came = message.content.array_records["companions"].to_torch_state_dict()
        answered = reply(message, Answer(site="a", examples=3, metrics={}))
        answered.content["companions"] = ArrayRecord({name: value - 1 for name, value in came.items()})
        return answered

    beside = {"variate/head.bias": torch.tensor([5.0, 7.0])}
    sites = flower_sites(node("a", train))
    (told,) = sites.train(REQUEST, START, ("a",), beside)
    assert told.arrays.keys() == START.keys()
    assert {name: value.tolist() for name, value in told.companions.items()} == {"variate/head.bias": [4.0, 6.0]}
    grid = Grid(node("a"))
    plain = FlowerSites(grid, deadline_s=60.0)  # type: ignore[arg-type]  # the three methods that it uses
    (told,) = plain.train(REQUEST, START, ("a",), {})
    assert list(grid.pushed[-1].content) == ["arrays", "config"] and told.companions == {}


CODED = replace(REQUEST, experiment=replace(REQUEST.experiment, transport=Transport(codec="int8", block=8)))
PAYLOAD = encode(torch.arange(8.0), CODED.experiment.transport)
"""Of the 8 numbers of START."""


def coding(**changes: Tensor) -> Node:
    """A node that answers with this payload."""

    def train(message: Message) -> Message:
        answered = reply(message, Answer(site="a", examples=3, metrics={}))
        answered.content["arrays"] = ArrayRecord({**PAYLOAD, **changes})
        return answered

    return node("a", train)


def test_what_comes_in_a_codecs_form_is_read_as_what_was_trained_and_its_bytes_are_told() -> None:
    (told,) = flower_sites(coding()).train(CODED, START, ("a",))
    assert told.refused is None
    assert {name: tensor.shape for name, tensor in told.arrays.items()} == {n: t.shape for n, t in START.items()}
    moved = torch.cat([(told.arrays[name] - START[name]).flatten() for name in sorted(START)])
    assert torch.allclose(moved, torch.arange(8.0), atol=7 / 254 + 1e-6)
    assert told.sent_bytes == len(state_bytes(PAYLOAD))
    (plain,) = flower_sites(node("a")).train(REQUEST, START, ("a",))
    assert plain.sent_bytes is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"codes": torch.zeros(9, dtype=torch.int8)}, "codes have another form"),
        ({"codes": torch.zeros(8, dtype=torch.int64)}, "codes have another form"),
        ({"scales": torch.tensor([float("nan")])}, "scales are not in order"),
        ({"head.bias": torch.zeros(2)}, "the coded update has other arrays"),
    ],
    ids=["long", "kind", "nan", "more"],
)
def test_a_coded_update_that_is_not_in_order_is_that_sites_refusal(changes: dict[str, Tensor], why: str) -> None:
    replies = {one.site: one for one in flower_sites(coding(**changes), node("b")).train(CODED, START, ("a", "b"))}
    assert why in (replies["a"].refused or "") and not replies["a"].arrays
    assert "the coded update has other arrays" in (replies["b"].refused or ""), "it sent what it trained, uncoded"


def test_a_coded_array_that_says_it_is_larger_than_it_is_is_refused() -> None:
    header = BytesIO()
    told_shape = {"descr": "|i1", "fortran_order": False, "shape": (10**15,)}
    numpy.lib.format.write_array_header_1_0(header, told_shape)

    def train(message: Message) -> Message:
        answered = reply(message, Answer(site="a", examples=3, metrics={}))
        arrays = {name: Array(value.numpy()) for name, value in PAYLOAD.items()}
        arrays["codes"].data, arrays["codes"].shape = header.getvalue() + bytes(8), (10**15,)
        answered.content["arrays"] = ArrayRecord(arrays)
        return answered

    (told,) = flower_sites(node("a", train)).train(CODED, START, ("a",))
    assert "cannot be read" in (told.refused or "") and not told.arrays


def test_only_the_sites_that_are_asked_get_a_message_and_each_answers_once() -> None:
    grid = Grid(node("a"), node("b"), node("c"))
    sites = FlowerSites(grid, deadline_s=60.0)  # type: ignore[arg-type]  # the three methods that it uses
    assert [reply.site for reply in sites.evaluate(REQUEST, START, ("a", "c"))] == ["c", "a"]
    assert [message.metadata.dst_node_id for message in grid.pushed[3:]] == [10, 12]


def test_a_hold_out_comes_back_without_arrays() -> None:
    sites = flower_sites(node("a", lambda message: reply(message, Answer(site="a", metrics={}, confusion=MATRIX))))
    (told,) = sites.evaluate(REQUEST, START, ("a",))
    assert told.answer is not None and told.answer.confusion == MATRIX
    assert told.arrays == {}


def test_a_late_site_is_refused_by_name_and_the_others_count() -> None:
    sites = flower_sites(node("a"), node("late", lambda message: None), node("b"))
    sites._deadline_s = 0.05
    replies = list(sites.train(REQUEST, START, sites.names()))
    assert [reply.site for reply in replies if reply.answer] == ["b", "a"]
    assert [(reply.site, reply.refused) for reply in replies if reply.refused] == [("late", "no answer within 0.05 s")]


def test_a_site_that_fails_is_refused_with_its_own_words() -> None:
    failing = node("a", lambda message: Message(Error(1, "BudgetExceeded: no room"), reply_to=message))
    (told,) = flower_sites(failing).train(REQUEST, START, ("a",))
    assert (told.site, told.refused, told.answer) == ("a", "BudgetExceeded: no room", None)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"config": ConfigRecord({})},
        {"config": ConfigRecord({"answer": 3})},
        {"config": ConfigRecord({"answer": "not JSON"})},
        {"config": ConfigRecord({"answer": "[" * 100_000})},
        {"config": ConfigRecord({"answer": '{"site": "a"}'})},
        {"config": ConfigRecord({"answer": answer_text(Answer(site="a", metrics={})).replace("null", "NaN", 1)})},
    ],
    ids=["nothing", "no answer", "number", "garbage", "deep", "half", "nan"],
)
def test_nonsense_is_that_sites_refusal_and_nobody_elses_trouble(content: dict[str, ConfigRecord]) -> None:
    sites = flower_sites(node("a", lambda message: Message(RecordDict({**content}), reply_to=message)), node("b"))
    replies = {reply.site: reply for reply in sites.train(REQUEST, START, ("a", "b"))}
    assert replies["a"].refused and replies["a"].answer is None
    assert replies["b"].answer is not None


def test_arrays_that_cannot_be_decoded_are_refused() -> None:
    def broken(message: Message) -> Message:
        good = reply(message, Answer(site="a", metrics={}))
        next(iter(good.content.array_records["arrays"].values())).data = b"not an array"
        return good

    (told,) = flower_sites(node("a", broken)).train(REQUEST, START, ("a",))
    assert told.refused is not None and "cannot be read" in told.refused


def test_arrays_that_would_run_code_are_refused() -> None:
    def pickled(message: Message) -> Message:
        import io

        import numpy

        target = io.BytesIO()
        numpy.save(target, numpy.array([{"a": "pickle"}], dtype=object), allow_pickle=True)
        good = reply(message, Answer(site="a", metrics={}))
        next(iter(good.content.array_records["arrays"].values())).data = target.getvalue()
        return good

    (told,) = flower_sites(node("a", pickled)).train(REQUEST, START, ("a",))
    assert told.refused is not None and "allow_pickle" in told.refused


def test_two_nodes_with_one_name_are_refused() -> None:
    with pytest.raises(RoundFailed, match=r"two nodes claim one site.*'a'"):
        flower_sites(node("a"), node("b"), node("a"))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "A", "ä", "a" * 81, "a\n"])
def test_a_name_that_could_not_be_a_files_is_refused(name: str) -> None:
    with pytest.raises(RoundFailed, match="no usable name"):
        flower_sites(node("b"), node(name))


def test_a_node_that_cannot_tell_its_name_is_no_site_and_without_any_site_nothing_starts() -> None:
    def broken(message: Message) -> Message:
        return Message(Error(1, "down"), reply_to=message)

    assert flower_sites(broken, node("a")).names() == ("a",)
    with pytest.raises(RoundFailed, match="no site answered"):
        flower_sites(broken)
    with pytest.raises(RoundFailed, match="no site answered"):
        flower_sites(lambda message: None, deadline_s=0.05)
