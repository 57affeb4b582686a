"""A whole federation whose sites keep LoRA's B to themselves, with real processes: what travels, what is told, what survives."""

import shutil
from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation
from torch import Tensor

from fedrelease.errors import ExperimentError
from fedrelease.server.spool import Spool
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.simulate import sites_folder
from fedrelease.update import StateFile, read_state

PHASE = 'strategy = "fedsa-lora"'
SITES = ("a", "b")


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("private"), tiny_base, phase=PHASE)


def parts(federation: Federation, store: str) -> dict[str, dict[str, Tensor]]:
    """What each site keeps of each version, by ``<site>/<version>``."""
    found = sites_folder(federation.folder / store).glob("*/private/*/*.safetensors")
    return {f"{path.parts[-4]}/{path.stem}": read_state(path) for path in sorted(found)}


def needles(state: dict[str, Tensor]) -> list[bytes]:
    """The bytes of each tensor's first numbers that are not zero: enough to know it by."""
    return [value[value != 0][:4].contiguous().numpy().tobytes() for value in state.values()]


def test_no_byte_of_a_sites_own_part_lies_anywhere_but_in_its_own_folder(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the handover are looked at when the server has read them, just before they go."""
    handed, unlink = list[bytes](), Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name.startswith("handover-") and path.is_file():
            handed.append(path.read_bytes())
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    federation.simulate("seen", "federation.keep_updates=true")
    store, home, kept = federation.folder / "seen", sites_folder(federation.folder / "seen"), parts(federation, "seen")
    assert list(kept) == [f"{site}/0.1.{round}" for site in SITES for round in (1, 2)]
    files = [path for folder in (store, home) for path in folder.rglob("*") if path.is_file()]
    spooled = [path for path in files if path.suffix == ".safetensors" and "spool" in path.parts]
    assert spooled and all(not StateFile(path)[name].any() for path in spooled for name in kept["a/0.1.1"])
    everywhere = handed + [path.read_bytes() for path in files if "private" not in path.parts]
    assert len(handed) >= 2 * len(SITES)
    for state in kept.values():
        assert all(len(needle) == 16 and not any(needle in data for data in everywhere) for needle in needles(state))
    released = {name: value for name, value in Store.open(store).find("0.1.1").state().items() if "lora_A" in name}
    assert released and all(any(needle in data for data in everywhere) for needle in needles(released))


def test_each_site_has_a_part_of_its_own_and_the_release_that_of_its_parent(federation: Federation) -> None:
    federation.simulate("whole")
    kept, store = parts(federation, "whole"), Store.open(federation.folder / "whole")
    for name in kept["a/0.1.2"]:
        assert not torch.equal(kept["a/0.1.2"][name], kept["b/0.1.2"][name])
        assert not store.find("0.1.2").state()[name].any()
    assert verify(store).ok
    metrics = store.find("0.1.2").manifest.metrics
    assert (
        "lora_residual" not in metrics.server and "accuracy_private" not in metrics.mean
    )  # noised: one look is paid for


@pytest.mark.slow
def test_a_run_that_was_stopped_between_training_and_answering_goes_on_to_the_same_digest(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Spool.accept

    def stop(spool: Spool, updates: object) -> None:
        if spool._folder.name == "0.1.2":
            raise Stopped
        accept(spool, updates)  # type: ignore[arg-type]  # as it came

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Spool, "accept", stop)
        federation.simulate("stopped")
    assert any(name.endswith("0.1.2") for name in parts(federation, "stopped"))  # trained, and nobody heard of it
    assert federation.simulate("stopped").resumed
    federation.simulate("never", workers=2)
    assert federation.digest("stopped") == federation.digest("never")
    assert federation.ledger_bytes("stopped").keys() == federation.ledger_bytes("never").keys()
    assert federation.spent("stopped") == federation.spent("never")


@pytest.mark.slow
def test_sites_outlive_a_server_that_lost_all_and_tell_what_their_own_part_is_worth(federation: Federation) -> None:
    plain = 'privacy.unit="none"'
    federation.simulate("lost", plain)
    digest = federation.digest("lost")
    shutil.rmtree(federation.folder / "lost")
    federation.simulate("lost", plain)
    assert federation.digest("lost") == digest
    metrics = Store.open(federation.folder / "lost").find("0.1.2").manifest.metrics
    assert {"accuracy", "accuracy_private"} <= metrics.mean.keys()
    assert all({"accuracy", "accuracy_private"} <= values.keys() for values in metrics.sites.values())
    base = Store.open(federation.folder / "lost").find("0.0.0").manifest.metrics
    assert "accuracy_private" not in base.mean and "lora_residual" not in metrics.server


def test_a_site_whose_part_is_gone_is_refused_by_name_and_the_others_make_the_round(federation: Federation) -> None:
    federation.simulate("gone", "phase.0.rounds=2", 'privacy.unit="none"', watch=Emptied(federation.folder / "gone"))
    facts = Store.open(federation.folder / "gone").find("0.1.2").manifest.federation
    assert [one.site for one in facts.accepted] == ["b"]
    assert [(one.site, "private part is gone" in one.reason) for one in facts.refused] == [("a", True)]


class Emptied:
    """Takes away what site a keeps, once the first round is released."""

    def __init__(self, store: Path) -> None:
        self._home = sites_folder(store)

    def __call__(self, event: object) -> None:
        if type(event).__name__ == "Released" and getattr(event, "version", "") == "0.1.1":
            for path in self._home.glob("a/private/*/*"):
                path.unlink()


@pytest.mark.parametrize(
    ("setting", "said"),
    [("model.adapter.site_ranks={ a = 1 }", "same rank"), ("model.adapter.kind='full'", "model.adapter.kind")],
)
def test_what_it_cannot_work_with_is_refused_before_anything_is_made(
    federation: Federation, setting: str, said: str
) -> None:
    with pytest.raises(ExperimentError, match=said):
        federation.simulate("refused", setting)
    assert not (federation.folder / "refused").exists()
