"""A whole federation whose sites keep a second pair of factors, with real processes: what travels, is released and exported."""

from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation
from safetensors.torch import load_file
from torch import Tensor

from fedrelease.client.private_part import part_of_release
from fedrelease.errors import ExperimentError
from fedrelease.private_part import private_names
from fedrelease.server.exports import Wanted, export
from fedrelease.server.predict import predict
from fedrelease.server.recompute import recompute
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.simulate import sites_folder
from fedrelease.update import read_state

PLAIN = 'privacy.unit="none"'
PAIR = "model.adapter.own_rank=3"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    federation = write_federation(tmp_path_factory.mktemp("pairs"), tiny_base, phase='strategy = "feddpa"')
    federation.simulate("store", PLAIN, PAIR, "federation.keep_updates=true")
    return federation


def newest(federation: Federation, store: str = "store") -> Release:
    return Store.open(federation.folder / store).find("0.1.2")


def parts(federation: Federation, store: str) -> dict[str, dict[str, Tensor]]:
    """What each site keeps of each version, by ``<site>/<version>``."""
    found = sites_folder(federation.folder / store).glob("*/private/second-adapter-*/*.safetensors")
    return {f"{path.parts[-4]}/{path.stem}": read_state(path) for path in sorted(found)}


def needle(tensor: Tensor) -> bytes:
    """The bytes of its first four numbers that are not zero: enough to know it by."""
    return tensor[tensor != 0][:4].contiguous().numpy().tobytes()


def scored(release: Release, federation: Federation, own: dict[str, Tensor] | None = None) -> object:
    return predict(release, ["good film"], cache=federation.cache, own=own)[0].document()["score"]


def test_no_byte_of_a_sites_own_pair_lies_anywhere_but_in_its_own_folder(federation: Federation) -> None:
    kept, store = parts(federation, "store"), federation.folder / "store"
    assert list(kept) == [f"{site}/0.1.{round}" for site in ("a", "b") for round in (1, 2)]
    files = [path for folder in (store, sites_folder(store)) for path in folder.rglob("*") if path.is_file()]
    assert any("spool" in path.parts for path in files)
    everywhere = [path.read_bytes() for path in files if "private" not in path.parts]
    for state in kept.values():
        assert not any(needle(tensor) in data for tensor in state.values() for data in everywhere)
    shared = [value for name, value in newest(federation).state().items() if "lora_" in name]
    assert shared and all(any(needle(tensor) in data for data in everywhere) for tensor in shared)


def test_a_release_has_the_pair_of_0_0_0_with_b_zero_and_each_site_another(federation: Federation) -> None:
    store = Store.open(federation.folder / "store")
    first, last = store.find("0.0.0").state(), newest(federation).state()
    names = private_names(last, "second-adapter")
    assert names and all(torch.equal(first[name], last[name]) for name in names)
    assert not any(last[name].any() for name in names if name.endswith("B"))
    assert all(not torch.equal(first[name], last[name]) for name in last if "lora_B" in name)
    kept = parts(federation, "store")
    assert all(not torch.equal(kept["a/0.1.2"][name], kept["b/0.1.2"][name]) for name in names)
    assert newest(federation).manifest.adapter.own_rank == 3 and verify(store).ok
    assert [one.outcome for one in recompute(store)] == ["same", "same"]


def test_every_site_tells_what_its_own_pair_is_worth(federation: Federation) -> None:
    metrics = newest(federation).manifest.metrics
    assert all({"accuracy", "accuracy_private"} <= values.keys() for values in metrics.sites.values())


def test_a_site_asks_its_own_model(federation: Federation) -> None:
    release, home = newest(federation), sites_folder(federation.folder / "store")
    own = [
        part_of_release(home / site, experiment_of(release), release.state(), version="0.1.2") for site in ("a", "b")
    ]
    scores = [scored(release, federation, part) for part in (None, *own)]
    assert len(set(map(str, scores))) == 3
    asked = ("predict", "--release", "0.1.2", "--store", "store", "--own", "store.sites/a", "--json", "good film")
    done = federation.command(*asked)
    assert done.returncode == 0 and f'"score":{scores[1]}' in done.stdout.replace(" ", "")


@pytest.mark.parametrize(("form", "merged"), [("hf", False), ("hf", True), ("safetensors", False)])
def test_an_export_is_the_base_with_the_shared_pair(
    federation: Federation, tmp_path: Path, form: str, merged: bool
) -> None:
    """Each is compared with its release, row by row, as it is written."""
    store = Store.open(federation.folder / "store")
    wanted = Wanted(format=form, merged=merged, out=tmp_path / "out")
    done = export(store, newest(federation), wanted, cache=federation.cache)
    files = [load_file(path) for path in done.folder.rglob("*.safetensors")]
    names = [name for file in files for name in file]
    assert any("query" in name for name in names) and not any("own_" in name for name in names)


def test_with_privacy_the_charges_are_those_without_a_second_pair(federation: Federation) -> None:
    federation.simulate("private", PAIR)
    federation.simulate("averaged", "phase.0.strategy=fedavg")
    assert federation.spent("private") == federation.spent("averaged") != {}
    assert list(parts(federation, "private")) == list(parts(federation, "store"))
    assert "accuracy_private" not in newest(federation, "private").manifest.metrics.mean  # one look is paid for


@pytest.mark.slow
@pytest.mark.parametrize("travels", ["down=float16", "codec=int8", "codec=top-k"])
def test_the_pair_stays_as_it_is_however_the_rest_travels(federation: Federation, travels: str) -> None:
    federation.simulate(travels, PLAIN, PAIR, f"transport.{travels}")
    first, last = (Store.open(federation.folder / travels).find(version) for version in ("0.0.0", "0.1.2"))
    assert [one.site for one in last.manifest.federation.accepted] == ["a", "b"]
    names = private_names(last.state(), "second-adapter")
    assert names and all(torch.equal(first.state()[name], last.state()[name]) for name in names)


def test_a_later_phase_may_bring_the_pair_and_widen_it(federation: Federation, tmp_path: Path, tiny_base: Path) -> None:
    phases = "".join(
        f'[[phase]]\nname = "own{rank}"\nrounds = 1\nstrategy = "feddpa"\nadapter = {{ own_rank = {rank} }}\n'
        for rank in (1, 2)
    )
    grows = write_federation(tmp_path, tiny_base, phase=phases)
    grows.simulate("grown", PLAIN, "phase.0.rounds=1")
    store = Store.open(grows.folder / "grown")
    assert grows.versions("grown") == ["0.0.0", "0.1.1", "1.2.1", "2.3.1"] and verify(store).ok
    kept = parts(grows, "grown")["a/2.3.1"]
    assert {min(tensor.shape) for tensor in kept.values()} == {2}
    before, after = store.find("0.1.1").state(), store.find("2.3.1").state()
    assert set(private_names(after, "second-adapter")) == after.keys() - before.keys() == set(kept)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "no second pair"),
        ((PAIR, "phase.0.strategy=fedavg"), "would average the pair"),
        ((PAIR, "phase.0.strategy=fedsa-lora"), "would average the pair"),
        ((PAIR, "model.adapter.site_ranks={ a = 1 }"), "same rank"),
        ((PAIR, "model.adapter.kind='full'"), r"own_rank.*left out with kind"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_made(
    federation: Federation, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ExperimentError, match=said):
        federation.simulate("refused", *settings)
    assert not (federation.folder / "refused").exists()
