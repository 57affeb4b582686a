"""Tensors that grow with the labels, on numbers worked by hand."""

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


def test_what_has_no_row_for_each_label_stays_whatever_its_shape() -> None:
    assert torch.equal(grown(KEPT, like=FRESH)["layer.lora_A"], torch.ones(1, 2))


def test_a_state_that_has_all_labels_already_stays() -> None:
    assert all(grown(FRESH, like=KEPT)[name] is value for name, value in FRESH.items())


def test_what_is_kept_beside_a_state_gets_zeros_for_new_labels() -> None:
    memory = {"momentum/head.bias": torch.tensor([2.0, 3.0]), "head.bias": torch.ones(2), "round": torch.tensor(4)}
    found = grown_with_zeros(memory, like=FRESH)
    assert found["momentum/head.bias"].tolist() == [2.0, 3.0, 0.0]
    assert found["round"] is memory["round"]
    assert found["head.bias"].tolist() == [1.0, 1.0, 0.0]
