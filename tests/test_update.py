"""States as bytes and files."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.update import StateFile, read_state, state_bytes, state_digest, write_state

STATE = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.arange(3, dtype=torch.int64), "c": torch.zeros(())}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_comes_out_of_its_file_as_it_went_in(tmp_path: Path) -> None:
    digest = write_state(tmp_path / "s.safetensors", STATE)
    assert same(read_state(tmp_path / "s.safetensors"), STATE)
    assert digest == state_digest(STATE) == hashlib.sha256((tmp_path / "s.safetensors").read_bytes()).hexdigest()


def test_the_bytes_are_plain_safetensors_without_metadata() -> None:
    data = state_bytes(STATE)
    assert same(load(data), STATE)
    assert b"__metadata__" not in data


def test_the_order_of_names_and_the_layout_in_memory_do_not_change_the_digest() -> None:
    turned = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    state = {"x": turned.t(), "y": turned[:, 0]}
    plain = {"y": torch.tensor([1.0, 3.0]), "x": torch.tensor([[1.0, 3.0], [2.0, 4.0]])}
    assert state_digest(state) == state_digest(plain)


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "b": torch.tensor([[1.5, -2.0000002]])},
        {**STATE, "b": torch.tensor([1.5, -2.0])},
        {**STATE, "b": STATE["b"].double()},
        {**STATE, "c": -torch.zeros(())},
        {**STATE, "d": torch.zeros(0)},
        {"b": STATE["b"], "a": STATE["a"], "e": STATE["c"]},
    ],
)
def test_every_bit_shape_type_and_name_changes_the_digest(other: dict[str, Tensor]) -> None:
    assert state_digest(other) != state_digest(STATE)


def test_a_tensor_that_wants_gradients_is_written_like_any_other() -> None:
    assert state_digest({"a": torch.ones(2, requires_grad=True)}) == state_digest({"a": torch.ones(2)})


def test_a_state_file_reads_each_tensor_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    write_state(path, STATE)
    tensors = StateFile(path)
    assert (list(tensors), len(tensors), "a" in tensors, "z" in tensors) == (["a", "b", "c"], 3, True, False)
    write_state(path, {**STATE, "a": STATE["a"] + 1})
    assert tensors["a"].tolist() == [1, 2, 3]  # nothing was kept from before
    assert tensors["a"] is not tensors["a"]


def test_a_state_file_has_no_other_names(tmp_path: Path) -> None:
    write_state(tmp_path / "s.safetensors", STATE)
    with pytest.raises(KeyError, match="nothing"):
        StateFile(tmp_path / "s.safetensors")["nothing"]


@pytest.mark.parametrize("damage", ["missing", "empty", "header", "torn", "text"])
def test_a_file_that_is_no_state_is_refused_by_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.safetensors"
    whole = state_bytes(STATE)
    data = {"empty": b"", "header": whole[:20], "torn": whole[:-1], "text": b"hello, this is not a state"}
    if damage in data:
        path.write_bytes(data[damage])
    for read in (read_state, StateFile):
        with pytest.raises(UpdateRefused, match=r"s\.safetensors cannot be read as safetensors"):
            read(path)
