"""States as bytes and files."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.update import (
    StateFile,
    digest_and_size,
    part_of,
    read_state,
    stacked_pieces,
    state_bytes,
    state_digest,
    write_state,
)

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


KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool)


def strange_state(seed: int) -> dict[str, Tensor]:
    """Names that sort one way and values that safetensors sorts another way: by size of their kind, then by name."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(), (0,), (3,), (2, 5), (1, 1, 2)]
    pairs = [(kind, shape) for kind in KINDS for shape in shapes]
    return {
        f"{(7 * place) % 40:02d} ü": torch.randint(0, 2, shape, generator=generator).to(kind)
        for place, (kind, shape) in enumerate(pairs)
    }


def test_the_quick_digest_and_size_are_those_of_the_bytes() -> None:
    for state in (strange_state(1), STATE, {}, {"turned": torch.rand(3, 4).t()}):
        data = state_bytes(state)
        assert digest_and_size(state) == (hashlib.sha256(data).hexdigest(), len(data))


def test_stacked_states_are_a_safetensors_file_that_gives_each_of_them_back(tmp_path: Path) -> None:
    states = [strange_state(seed) for seed in range(3)]
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"".join(stacked_pieces(states)))
    assert path.read_bytes() == state_bytes({name: torch.stack([one[name] for one in states]) for name in states[0]})
    for row, state in enumerate(states):
        assert same(dict(StateFile(path, row=row)), state)
        assert all(found.dtype == state[name].dtype for name, found in StateFile(path, row=row).items())


def test_a_part_of_a_tensor_is_the_same_from_a_file_a_stack_and_memory(tmp_path: Path) -> None:
    states = [strange_state(seed) for seed in range(3)]
    (tmp_path / "stack").write_bytes(b"".join(stacked_pieces(states)))
    write_state(tmp_path / "one", states[1])
    for name, tensor in states[1].items():
        for start, stop in {(0, tensor.numel()), (0, 1), (1, 2), (3, 7), (5, 10)}:
            if stop <= tensor.numel():
                wanted = tensor.reshape(-1)[start:stop]
                for found in (states[1], StateFile(tmp_path / "one"), StateFile(tmp_path / "stack", row=1)):
                    assert torch.equal(part_of(found, name, start, stop), wanted)
