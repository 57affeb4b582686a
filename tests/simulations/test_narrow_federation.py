"""Whole federations whose states go to the sites in half precision, with real processes."""

from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation

from fedrelease.downlink import as_received
from fedrelease.server.journal import LogEntry
from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.transport import Transport

pytestmark = pytest.mark.slow
HALF = ("transport.down=float16", "privacy.unit=none")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("narrow"), tiny_base)


def rounds(federation: Federation, store: str) -> list[LogEntry]:
    return list(Store.open(federation.folder / store).history())


def test_half_the_bytes_go_down_the_release_stays_float32_and_repeats_bit_for_bit(federation: Federation) -> None:
    plain = federation.simulate("plain", "privacy.unit=none", "federation.keep_updates=true")
    half = federation.simulate("half", *HALF, "federation.keep_updates=true")
    again = federation.simulate("again", *HALF, "federation.keep_updates=true", workers=2)
    assert half.head_digest == again.head_digest != plain.head_digest
    for before, after in zip(rounds(federation, "plain"), rounds(federation, "half"), strict=True):
        assert before.bytes_down and after.bytes_down and 0.5 <= after.bytes_down / before.bytes_down < 0.75
        assert before.bytes_up == after.bytes_up
    state = Store.open(federation.folder / "half").releases()[-1].state()
    rounded = as_received(state, Transport(down="float16"))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert any(not torch.equal(rounded[name], tensor) for name, tensor in state.items()), "nothing of it was rounded"
    assert [one.outcome for one in recompute(Store.open(federation.folder / "half"))] == ["same", "same"]


def test_a_frozen_factor_does_not_move_by_what_rounding_takes_from_it(federation: Federation) -> None:
    """fedsa-lora keeps B at the sites; rolora freezes one factor in turn: a difference of rounding would be refused."""
    summary = federation.simulate("rolora", *HALF, "phase.0.strategy=rolora")
    releases = Store.open(federation.folder / "rolora").releases()
    assert summary.head == "0.1.2"
    assert [len(one.manifest.federation.accepted) for one in releases] == [0, 2, 2]
    before, after = releases[0].state(), releases[1].state()
    assert any(torch.equal(before[name], after[name]) for name in before), "the frozen factor is the same, bit for bit"


@pytest.mark.parametrize("codec", ["float16", "int8", "top-k"])
def test_it_goes_together_with_every_way_up(federation: Federation, codec: str) -> None:
    summary = federation.simulate(codec, *HALF, f"transport.codec={codec}")
    assert summary.head == "0.1.2"
    accepted = [one.manifest.federation.accepted for one in Store.open(federation.folder / codec).releases()]
    assert [len(sites) for sites in accepted] == [0, 2, 2]
