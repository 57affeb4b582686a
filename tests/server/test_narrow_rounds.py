"""Rounds whose states go down in half precision: real messages to functions in the place of sites, then whole rounds of fakes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import FakeSites, make_experiment, make_setting, run
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from fedrelease.codecs import encode, flat
from fedrelease.downlink import widened
from fedrelease.messages import Answer, Request, answer_text, parse_request
from fedrelease.server.flower import FlowerSites
from fedrelease.server.gather import gather_updates
from fedrelease.server.spool import Spool
from fedrelease.server.store import Store
from fedrelease.transport import Transport
from fedrelease.update import state_bytes

STATE = {"head.bias": torch.tensor([0.1, 0.2]), "head.weight": torch.tensor([[1 / 3, 2 / 3, 1.0]] * 2)}
"""None of these numbers but 1 is one of half precision."""


class Grid:
    """One site, which adds 0.5 to whatever it begins from, and tells in which form that came."""

    def __init__(self) -> None:
        self.came: list[dict[str, Tensor]] = []
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return [10]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(len(self._replies))
            self._replies[str(len(self._replies))] = self._answer(message)
        return [str(len(self._replies) - 1)]

    def pull_messages(self, message_ids: Sequence[str]) -> list[Message]:
        return [self._replies[task] for task in message_ids]

    def _answer(self, message: Message) -> Message:
        config = {"site": "a", "answer": answer_text(Answer(site="a", examples=1, metrics={"steps": 1.0}))}
        records = RecordDict({"config": ConfigRecord(config)})
        if message.metadata.message_type != "query":
            self.came.append(message.content.array_records["arrays"].to_torch_state_dict())
            request = parse_request(str(message.content.config_records["config"]["request"]))
            records["arrays"] = ArrayRecord(self._trained(self.came[-1], request.experiment.transport))
        return Message(records, reply_to=message)

    @staticmethod
    def _trained(came: Mapping[str, Tensor], transport: Transport) -> dict[str, Tensor]:
        began = widened(came, transport)
        trained = {name: tensor + 0.5 for name, tensor in began.items()}
        delta = {name: trained[name] - began[name] for name in began}
        return encode(flat(delta), transport) if transport.is_coded else trained


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's messages ask for in a process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
def test_an_update_is_what_was_trained_from_what_arrived_and_rounding_down_is_in_none(
    tmp_path: Path, codec: str
) -> None:
    """The site adds 0.5 to each number. Against the unrounded state 1/3 would seem to have moved by 0.50004."""
    transport = Transport(codec=codec, down="float16")
    experiment = replace(make_experiment(), transport=transport)
    grid = Grid()
    sites = FlowerSites(grid, deadline_s=5.0)  # type: ignore[arg-type]  # the three methods that it uses
    setting = make_setting(tmp_path / "store", sites, experiment=experiment)  # type: ignore[arg-type]
    request = Request(experiment=experiment, version="0.1.1", round=1, base="0" * 64, directives={})
    spool = Spool(tmp_path / "spool", parent="sha256:" + "0" * 64)
    assert gather_updates(setting, request, STATE, ("a",), spool, companions={}, kinds=()) == {}
    assert {tensor.dtype for tensor in grid.came[0].values()} == {torch.float16}
    (update,) = spool.updates()
    for name in STATE:
        assert torch.allclose(update.tensors[name], torch.tensor(0.5), rtol=0, atol=1e-7)


def test_what_sites_look_at_goes_down_in_the_same_form() -> None:
    grid = Grid()
    sites = FlowerSites(grid, deadline_s=5.0)  # type: ignore[arg-type]  # the three methods that it uses
    for down, kind in (("float16", torch.float16), ("float32", torch.float32)):
        experiment = replace(make_experiment(), transport=Transport(down=down))
        request = Request(experiment=experiment, version="0.1.1", round=1, base="0" * 64, directives={})
        assert [reply.refused for reply in sites.evaluate(request, STATE, ("a",))] == [None]
        assert {tensor.dtype for tensor in grid.came[-1].values()} == {kind}


def test_bytes_down_are_those_that_travel_and_the_release_is_float32(tmp_path: Path) -> None:
    told = {}
    for down in ("float32", "float16"):
        experiment = replace(make_experiment(rounds=1), transport=Transport(down=down))
        run(make_setting(tmp_path / down, FakeSites(("a", "b", "c")), experiment=experiment, start=STATE))
        store = Store.open(tmp_path / down)
        told[down] = [entry.bytes_down for entry in store.history()]
        assert {tensor.dtype for tensor in store.releases()[-1].state().values()} == {torch.float32}
    half = len(state_bytes({name: tensor.half() for name, tensor in STATE.items()}))
    assert told["float16"] == [3 * half, 6 * half], "three look at 0.0.0; then three train and three look"
    assert told["float32"] == [3 * len(state_bytes(STATE)), 6 * len(state_bytes(STATE))]
