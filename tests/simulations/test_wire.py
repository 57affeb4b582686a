import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrelease.errors import EngineError
from fedrelease.messages import Answer
from fedrelease.simulations.wire import pack, receive, send, unpack
from fedrelease.simulations.wire_group import pack_group, unpack_group

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


STATE = {"b": torch.tensor([1.5, -0.0]), "a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "n": torch.tensor(7)}


def records() -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord(STATE),
            "metrics": MetricRecord({"steps": 3, "loss": 0.1 + 0.2, "list": [1, 2]}),
            "config": ConfigRecord({"text": "ä\n", "yes": True, "no": 0, "half": 0.5, "names": ["a", "b"]}),
        }
    )


def test_records_come_back_bit_for_bit_over_a_socket(pair: Pair, tmp_path: Path) -> None:
    send(pair[0], {"content": pack(records(), tmp_path)})
    frame = receive(pair[1])
    assert frame is not None
    back = unpack(frame["content"], consume=False)
    arrays = back.array_records["arrays"].to_torch_state_dict()
    assert {name: (value.dtype, value.tolist()) for name, value in arrays.items()} == {
        name: (value.dtype, value.tolist()) for name, value in STATE.items()
    }
    assert dict(back.metric_records["metrics"]) == dict(records().metric_records["metrics"])
    assert dict(back.config_records["config"]) == dict(records().config_records["config"])
    assert type(back.config_records["config"]["yes"]) is bool


def test_files_stay_until_their_last_reader_consumes_them(tmp_path: Path) -> None:
    packed = pack(records(), tmp_path)
    unpack(packed, consume=False)
    assert len(list(tmp_path.iterdir())) == 1
    unpack(packed, consume=True)
    assert list(tmp_path.iterdir()) == []


def test_the_answers_of_a_group_come_back_with_companions_in_a_record_of_their_own(tmp_path: Path) -> None:
    tensors = [{"b": STATE["b"] + place, "variate/b": STATE["b"] * place} for place in range(2)]
    told = [Answer(site=site, metrics={"steps": 1.0}) for site in "ab"]
    outcomes = [(told[0], tensors[0]), ValueError("no"), (told[1], tensors[1])]
    first, failed, second = unpack_group(pack_group(outcomes, tmp_path))
    assert failed == "ValueError: no"
    for content, sent in zip((first, second), tensors, strict=True):
        assert isinstance(content, RecordDict)
        found = {kind: record.to_torch_state_dict() for kind, record in content.array_records.items()}
        assert {kind: list(part) for kind, part in found.items()} == {"arrays": ["b"], "companions": ["variate/b"]}
        assert torch.equal(found["arrays"]["b"], sent["b"])
        assert torch.equal(found["companions"]["variate/b"], sent["variate/b"])
    assert list(tmp_path.iterdir()) == []


def test_tensors_travel_as_safetensors(tmp_path: Path) -> None:
    pack(records(), tmp_path)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(data[8 : 8 + length]).keys() == STATE.keys()


def test_an_array_of_objects_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        pack(RecordDict({"arrays": ArrayRecord([numpy.array([{"a": 1}], dtype=object)])}), tmp_path)


def test_bytes_in_a_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no bytes.*secret"):
        pack(RecordDict({"config": ConfigRecord({"secret": b"x"})}), tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not JSON", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "not an object"),
        (b'"text"', "not an object"),
        (b"\x80\x04\x95", "not JSON"),
    ],
)
def test_a_frame_of_something_else_is_refused(pair: Pair, data: bytes, said: str) -> None:
    pair[0].sendall(struct.pack(">Q", len(data)) + data)
    with pytest.raises(EngineError, match=said):
        receive(pair[1])


def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall(struct.pack(">Q", 1 << 40))
    with pytest.raises(EngineError, match="too large"):
        receive(pair[1])


@pytest.mark.parametrize("length", [0, 3, 8, 12])
def test_who_is_gone_in_the_middle_of_a_frame_has_sent_nothing(pair: Pair, length: int) -> None:
    whole = struct.pack(">Q", 8) + b'{"a": 1}'
    pair[0].sendall(whole[:length])
    pair[0].close()
    assert receive(pair[1]) is None


@pytest.mark.parametrize("packed", [None, 3, "x", [], {"arrays": [], "metrics": {}, "configs": {}}])
def test_what_is_no_packed_message_is_refused(packed: None) -> None:
    with pytest.raises(EngineError, match="something else than records"):
        unpack(packed, consume=True)
