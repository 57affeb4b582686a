"""A federation whose sites keep a head of their own: what a release has, and how a site asks its own model."""

from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation

from fedrelease.client.private_part import part_of_release
from fedrelease.errors import DataError
from fedrelease.server.predict import predict
from fedrelease.server.release import experiment_of
from fedrelease.server.store import Store
from fedrelease.simulations.simulate import sites_folder

HEAD = ("head.bias", "head.weight")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    """One round together, so that releases have a head, and two in which each site has its own."""
    phases = '[[phase]]\nname = "own"\nrounds = 2\nstrategy = "fedper"'
    federation = write_federation(tmp_path_factory.mktemp("heads"), tiny_base, phase=phases)
    federation.simulate("store", 'privacy.unit="none"', "phase.0.rounds=1")
    return federation


def test_a_release_has_the_head_of_its_parent_and_each_site_another(federation: Federation) -> None:
    store, home = Store.open(federation.folder / "store"), sites_folder(federation.folder / "store")
    before, after = (store.find(version).state() for version in ("0.1.1", "0.2.2"))
    assert all(torch.equal(before[name], after[name]) for name in HEAD) and before["head.weight"].any()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    experiment = experiment_of(store.find("0.2.2"))
    parts = [part_of_release(home / site, experiment, after, version="0.2.2") for site in ("a", "b")]
    assert all(sorted(part) == sorted(HEAD) for part in parts)
    assert not torch.equal(parts[0]["head.weight"], parts[1]["head.weight"])


def test_a_site_asks_its_own_model(federation: Federation) -> None:
    store, home = Store.open(federation.folder / "store"), sites_folder(federation.folder / "store")
    release = store.find("0.2.2")
    own = part_of_release(home / "a", experiment_of(release), release.state(), version=release.version)
    plain, others = (
        predict(release, ["good film"], cache=federation.cache, own=part)[0].document() for part in (None, own)
    )
    assert plain["score"] != others["score"]
    done = federation.command(
        "predict", "--release", "0.2.2", "--store", "store", "--own", "store.sites/a", "--json", "good film"
    )
    assert done.returncode == 0 and f'"score":{others["score"]}' in done.stdout.replace(" ", "")


@pytest.mark.parametrize(("version", "site"), [("0.1.1", "a"), ("0.0.0", "a"), ("0.2.2", "nobody")])
def test_where_no_site_keeps_a_part_of_a_release_is_told_with_the_strategies_that_do(
    federation: Federation, version: str, site: str
) -> None:
    store, home = Store.open(federation.folder / "store"), sites_folder(federation.folder / "store")
    release = store.find(version)
    with pytest.raises(DataError, match=r"no site keeps a part of .*fedper \(head\), fedsa-lora \(lora_B\)"):
        part_of_release(home / site, experiment_of(release), release.state(), version=version)
