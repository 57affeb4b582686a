"""States on their way to sites: what travels, what arrives, and that an update counts from what arrived."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from fedrelease.downlink import as_received, narrowed, widened
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import experiment_digest, from_document, to_document
from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.transport import Transport
from fedrelease.update import state_bytes

HALF, PLAIN = Transport(down="float16"), Transport()
STATE = {
    "head.weight": torch.tensor([[1.0, 1.0 + 2**-12], [-3.14159, 0.0]]),
    "head.bias": torch.tensor([1e-9, 65504.0]),
}


def exact(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def test_without_the_key_what_travels_is_the_state_bit_for_bit() -> None:
    assert (
        exact(narrowed(STATE, PLAIN))
        == exact(widened(STATE, PLAIN))
        == exact(as_received(STATE, PLAIN))
        == exact(STATE)
    )


def test_half_precision_keeps_eleven_bits_and_what_arrives_is_float32() -> None:
    """1 + 2^-12 lies between 1 and 1 + 2^-10, nearer to 1; 1e-9 is nearer to 0 than to the smallest half, 6e-8."""
    arrived = as_received(STATE, HALF)
    assert {tensor.dtype for tensor in arrived.values()} == {torch.float32}
    assert arrived["head.weight"].tolist() == [[1.0, 1.0], [-3.140625, 0.0]]
    assert arrived["head.bias"].tolist() == [0.0, 65504.0]


def test_half_precision_travels_in_half_the_bytes() -> None:
    state = {"a": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    sizes = [narrowed(state, transport)["a"].nbytes for transport in (PLAIN, HALF)]
    assert sizes == [4000, 2000]
    assert len(state_bytes(narrowed(state, HALF))) < 0.53 * len(state_bytes(state))


@given(some.lists(some.floats(-65504, 65504, width=32), min_size=1, max_size=20))
def test_what_was_received_arrives_as_it_is_when_it_is_sent_again(values: list[float]) -> None:
    """So the server may round before it sends, and count from there."""
    once = as_received({"a": torch.tensor(values)}, HALF)
    assert exact(as_received(once, HALF)) == exact(once)
    assert exact(widened(narrowed(once, HALF), HALF)) == exact(once)


@pytest.mark.parametrize("value", [65520.0, -1e6, float("inf"), float("nan")])
def test_a_number_that_half_precision_cannot_hold_is_refused_with_its_tensor(value: float) -> None:
    with pytest.raises(ExperimentError, match="a number in b that float16 cannot hold") as refused:
        narrowed({"a": torch.zeros(2), "b": torch.tensor([0.0, value])}, HALF)
    assert "leave transport.down out" in refused.value.hint


def test_an_experiment_without_the_key_is_the_one_that_it_always_was() -> None:
    plain, coded = Experiment(), load_experiment(None, ["transport.codec=int8"], text="")
    for experiment in (plain, coded):
        assert "down" not in to_document(experiment).get("transport", {})  # type: ignore[operator]
        assert "down" not in to_toml(experiment)
        said = replace(experiment, transport=replace(experiment.transport, down="float32"))
        assert experiment_digest(said) == experiment_digest(experiment)


@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_with_the_key_it_is_another_experiment_that_reads_back(codec: str) -> None:
    wished = load_experiment(None, ["transport.down=float16", f"transport.codec={codec}"], text="")
    same_way_up = load_experiment(None, [f"transport.codec={codec}"], text="")
    assert from_document(to_document(wished)) == load_experiment(None, text=to_toml(wished)) == wished
    assert experiment_digest(wished) != experiment_digest(same_way_up)


def test_the_key_is_known_by_its_two_forms_and_does_not_go_with_lines_on_virtual_time() -> None:
    with pytest.raises(ExperimentError, match="transport.down is out of bounds"):
        Transport(down="int8")
    lines = ["transport.down=float16", "virtual_time.examples_per_s=50", "virtual_time.mbit_per_s=10"]
    with pytest.raises(ExperimentError, match="transport.down is out of bounds"):
        load_experiment(None, lines, text="")
    assert load_experiment(None, lines[:2], text="").transport.is_narrow
