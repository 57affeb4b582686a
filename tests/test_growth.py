"""Tensors that grow with labels and adapter, on numbers worked by hand."""

import pytest
import torch
from torch import Tensor

from fedrelease.growth import grown, grown_with_zeros

KEPT = {
    "head.bias": torch.tensor([0.1, float("nan")]),
    "head.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "layer.lora_A": torch.ones(1, 2),
}
FRESH = {
    "head.bias": torch.tensor([7.0, 7.0, 0.5]),
    "head.weight": torch.tensor([[7.0, 7.0], [7.0, 7.0], [5.0, 6.0]]),
    "layer.lora_A": torch.zeros(3, 2),
}


def same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.view(torch.int32), second.view(torch.int32))


def test_old_rows_stay_bit_for_bit_and_new_ones_are_the_fresh_ones_of_the_same_place() -> None:
    found = grown(KEPT, like=FRESH)
    assert same_bits(found["head.bias"], torch.tensor([0.1, float("nan"), 0.5]))
    assert same_bits(found["head.weight"], torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))


def test_factors_and_cores_get_new_rows_and_columns_behind_the_old_ones() -> None:
    kept = {
        "q.lora_A": torch.tensor([[1.0, 2.0]]),
        "q.lora_B": torch.tensor([[3.0], [4.0]]),
        "k.lora_R": torch.tensor([[5.0]]),
    }
    fresh = {
        "q.lora_A": torch.tensor([[9.0, 9.0], [0.5, 0.25]]),
        "q.lora_B": torch.zeros(2, 2),
        "k.lora_R": torch.zeros(2, 2),
        "v.lora_A": torch.tensor([[7.0, 8.0]]),
    }
    found = {name: value.tolist() for name, value in grown(kept, like=fresh).items()}
    assert found["q.lora_A"] == [[1.0, 2.0], [0.5, 0.25]]
    assert found["q.lora_B"] == [[3.0, 0.0], [4.0, 0.0]]
    assert found["k.lora_R"] == [[5.0, 0.0], [0.0, 0.0]]
    assert found["v.lora_A"] == [[7.0, 8.0]], "a layer that is new is the fresh one's"


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("layer.residual", torch.zeros(3, 2)),
        ("layer.lora_A", torch.zeros(1, 3)),
        ("layer.lora_B", torch.zeros(3, 2)),
        ("layer.lora_A", torch.zeros(3)),
    ],
)
def test_what_would_have_to_grow_along_another_dimension_stays(name: str, like: Tensor) -> None:
    kept = torch.ones(1, 2)
    assert grown({name: kept}, like={name: like})[name] is kept


def test_a_state_that_has_everything_already_stays() -> None:
    assert all(grown(FRESH, like=KEPT)[name] is value for name, value in FRESH.items())


def test_what_is_kept_beside_a_state_gets_zeros_for_new_labels() -> None:
    memory = {"momentum/head.bias": torch.tensor([2.0, 3.0]), "head.bias": torch.ones(2), "round": torch.tensor(4)}
    found = grown_with_zeros(memory, like=FRESH)
    assert found["momentum/head.bias"].tolist() == [2.0, 3.0, 0.0]
    assert found["round"] is memory["round"]
    assert found["head.bias"].tolist() == [1.0, 1.0, 0.0]


def test_what_is_kept_beside_factors_gets_zeros_and_nothing_for_layers_of_which_nothing_is_kept() -> None:
    memory = {"seen/a/q.lora_B": torch.tensor([[2.0]], dtype=torch.float64), "seen/a/gone.lora_B": torch.ones(1, 1)}
    like = {"q.lora_B": torch.full((1, 3), 7.0), "v.lora_B": torch.full((1, 3), 7.0)}
    found = grown_with_zeros(memory, like=like)
    assert found.keys() == memory.keys()
    assert found["seen/a/q.lora_B"].tolist() == [[2.0, 0.0, 0.0]]
    assert found["seen/a/q.lora_B"].dtype == torch.float64
    assert found["seen/a/gone.lora_B"] is memory["seen/a/gone.lora_B"]
