"""A release computed again from its kept updates."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import FakeSites, make_experiment, make_setting, run
from kept_stores import experiment, kept_store

from fedrelease.experiment import Experiment, Phase, StrategyChoice
from fedrelease.files import digest_bytes
from fedrelease.manifest import FileEntry
from fedrelease.server import recompute as module
from fedrelease.server.recompute import recompute
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.update import state_bytes


def outcomes(store: Store) -> dict[str, str]:
    return {one.version: one.outcome for one in recompute(store)}


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "median", "scaffold", "feddyn"])
def test_every_round_of_a_kept_store_comes_out_again_bit_for_bit(tmp_path: Path, name: str) -> None:
    store = kept_store(tmp_path / "s", experiment(name=name))
    assert outcomes(store) == {"0.1.1": "same", "0.1.2": "same", "0.1.3": "same"}


def test_memory_that_another_phase_made_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    momentum = StrategyChoice(name="fedavgm")
    phases = [
        Phase(name="one", rounds=2, strategy=momentum),
        Phase(name="two", rounds=2, strategy=StrategyChoice(name="fedadam")),
    ]
    assert set(outcomes(kept_store(tmp_path / "s", experiment(*phases))).values()) == {"same"}


def test_a_store_without_kept_updates_says_so_and_that_is_no_fault(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s", experiment(keep=False))
    assert set(outcomes(store).values()) == {"no-spool"}


def test_an_update_that_was_changed_or_lost_since_is_named(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s")
    (store.folder / "spool" / "0.1.2" / "b.json").unlink()
    tensors = store.folder / "spool" / "0.1.3" / "c.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    found = {one.version: one for one in recompute(store)}
    assert found["0.1.1"].outcome == "same"
    assert found["0.1.2"].outcome == "failed" and "accepted from b" in found["0.1.2"].what
    assert found["0.1.3"].outcome == "failed" and "accepted from c" in found["0.1.3"].what


def test_a_state_that_does_not_follow_from_its_updates_is_named_by_its_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kept_store(tmp_path / "s", experiment(name="fedavgm"))
    release = store.find("0.1.2")
    forged = {name: tensor + (name == "head.bias") for name, tensor in release.state().items()}
    data = state_bytes(forged)
    with store.lock():
        store.put_blob(data)
    entry = FileEntry(path="adapter.safetensors", sha256=digest_bytes(data), size=len(data), role="adapter")
    files = (entry, *(file for file in release.manifest.files if file.role != "adapter"))
    swapped = replace(release, manifest=replace(release.manifest, files=files))
    monkeypatch.setattr(module, "by_digest", lambda root, digest: store.find(digest))
    monkeypatch.setattr(Store, "find", _finding(store, {"0.1.2": swapped}))
    (found,) = recompute(store, "0.1.2")
    assert (found.outcome, found.what) == ("differs", "state: head.bias")


def _finding(store: Store, instead: dict[str, Release]) -> object:
    real = Store.find
    return lambda self, ref: instead.get(ref) or real(store, ref)


def test_one_release_alone_is_computed_again(tmp_path: Path) -> None:
    assert [one.version for one in recompute(kept_store(tmp_path / "s"), "0.1.2")] == ["0.1.2"]


def buffered(keep: bool = True) -> Experiment:
    choice = StrategyChoice(name="fedbuff", knobs={"buffer": 0.5})
    return replace(make_experiment(keep=keep), phases=(Phase(name="pilot", rounds=4, strategy=choice),))


def test_rounds_whose_sites_began_from_older_releases_come_out_again_since_the_spool_says_from_which(
    tmp_path: Path,
) -> None:
    seconds = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 2.5}
    setting = make_setting(
        tmp_path / "s", FakeSites("abcd"), experiment=buffered(), seconds_of=lambda site, size: seconds[site]
    )
    run(setting)
    begun = json.loads((setting.store.folder / "spool" / "0.1.3" / "round.facts").read_bytes())["begun"]
    assert set(begun.values()) != {"0.1.2"}, "somebody was late, or this tests nothing"
    assert set(outcomes(setting.store).values()) == {"same"}
    for kept in setting.store.folder.glob("spool/*/round.facts"):
        kept.unlink()
    assert {one.outcome for one in recompute(setting.store)} == {"failed"}


def test_what_divides_by_the_number_of_sites_is_not_guessed(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "s", experiment(name="scaffold"))
    (store.folder / "spool" / "0.1.1" / "round.facts").unlink()
    found = {one.version: one for one in recompute(store)}
    assert "number of sites" in found["0.1.1"].what
    assert found["0.1.2"].outcome == "same"


def test_the_number_of_threads_is_left_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    list(recompute(kept_store(tmp_path / "s")))
    assert torch.get_num_threads() == before
