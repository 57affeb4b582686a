"""A real small federation whose adapter grows, rank 2 -> 4 -> more layers: every version is used as it was trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation
from safetensors.torch import load_file
from tiny import token_rows

from fedrelease.errors import FedreleaseError
from fedrelease.server.card import card
from fedrelease.server.events import Event, RoundStarted
from fedrelease.server.exports.compared import logits_of, reference_logits
from fedrelease.server.exports.hugging_face import write_adapter
from fedrelease.server.exports.plain import plain_model
from fedrelease.server.judging import report_of
from fedrelease.server.predict import predict
from fedrelease.server.released_model import same_base
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.lending import Lender
from fedrelease.simulations.simulate import sites_folder
from fedrelease.update import read_state

GATES = 'gates = { quality = { severity = "warn", class_severity = "warn", site_severity = "warn" } }'
PHASES = f"""{GATES}
[[phase]]
name = "wide"
rounds = 1
adapter = {{ rank = 4 }}
{GATES}
[[phase]]
name = "deep"
rounds = 1
adapter = {{ layers = "last:2" }}
{GATES}
"""
VERSIONS = ["0.0.0", "0.1.1", "1.2.1", "2.3.1"]
PLAIN = ("privacy.unit=none",)


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("adapter"), tiny_base, rounds="1", phase=PHASES)


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    with Lender(home=tmp_path_factory.mktemp("engine"), workers=1) as lender:
        yield lender


@pytest.fixture(scope="module")
def plain(growing: Federation, lender: Lender) -> Store:
    growing.simulate("plain", *PLAIN, lender=lender)
    return Store.open(growing.folder / "plain")


@pytest.fixture(scope="module")
def private(growing: Federation) -> Store:
    """By two workers that did nothing before."""
    growing.simulate("private", workers=2)
    return Store.open(growing.folder / "private")


def test_every_version_tells_its_own_adapter_and_predicts_with_it(growing: Federation, plain: Store) -> None:
    assert growing.versions("plain") == VERSIONS
    facts = [plain.find(version).manifest.adapter for version in VERSIONS]
    told = [(adapter.rank, adapter.alpha, adapter.layers) for adapter in facts]
    assert told == [(2, 16.0, "last:1"), (2, 16.0, "last:1"), (4, 32.0, "last:1"), (4, 32.0, "last:2")]
    for version in VERSIONS:
        (found,) = predict(plain.find(version), ["the film was good"], cache=growing.cache)
        assert 0.5 <= found.score <= 1
    assert "LoRA factors of rank 2" in card(plain.find("0.1.1")) and "LoRA factors of rank 4" in card(
        plain.find("1.2.1")
    )
    assert verify(plain).ok


def test_every_version_merges_to_its_own_logits_and_writes_its_own_adapter_for_peft(
    growing: Federation, plain: Store, tiny_base: Path, tmp_path: Path
) -> None:
    rows = token_rows(tmp_path / "rows.safetensors", tiny_base)
    for version in VERSIONS:
        release = plain.find(version)
        merged = plain_model(release, cache=growing.cache)
        with torch.no_grad():
            said = logits_of(merged.module, rows, merged.inputs)
        own = reference_logits(release, same_base(release, growing.cache), rows)
        assert torch.allclose(said, own, atol=1e-5)
        (folder := tmp_path / version).mkdir()
        write_adapter(release, merged, folder)
        factors = load_file(folder / "adapter_model.safetensors")
        assert f'"r": {release.manifest.adapter.rank},' in (folder / "adapter_config.json").read_text(encoding="utf-8")
        assert {min(factor.shape) for factor in factors.values()} == {release.manifest.adapter.rank}


def test_with_privacy_every_ledger_keeps_to_one_budget_for_all_phases(growing: Federation, private: Store) -> None:
    assert private.head() is not None
    assert all(7.5 < spent <= 8.0 for spent in growing.spent("private").values())


def test_the_quality_gate_compares_item_by_item_across_the_growth(plain: Store) -> None:
    report = report_of(plain.find("2.3.1"))
    assert report is not None
    quality = {finding.slice: finding.state for finding in report.findings if finding.gate == "quality"}
    assert {"overall", "class:negative", "class:positive"} <= quality.keys()
    assert not {"error", "skipped"} & set(quality.values())


def test_one_worker_that_is_kept_ends_with_the_digest_of_two_fresh_ones(
    growing: Federation, plain: Store, private: Store, lender: Lender
) -> None:
    """Its resident model is that of another run's last phase when it begins."""
    assert plain.head() is not None
    growing.simulate("kept", lender=lender)
    head = private.head()
    assert head is not None and growing.digest("kept") == head.digest


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.2.1", "2.3.1"])
def test_a_run_that_is_stopped_before_a_round_that_grows_ends_with_the_same_digest(
    growing: Federation, private: Store, lender: Lender, version: str
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.version == version:
            raise Stopped

    with pytest.raises(Stopped):
        growing.simulate(f"stopped-{version}", watch=stop, lender=lender)
    growing.simulate(f"stopped-{version}", lender=lender)
    head = private.head()
    assert head is not None and growing.digest(f"stopped-{version}") == head.digest


@pytest.mark.parametrize("strategy", ["fedsa-lora", pytest.param("scaffold", marks=pytest.mark.slow)])
def test_what_sites_keep_grows_with_the_adapter(growing: Federation, lender: Lender, strategy: str) -> None:
    phases = [f"phase.{place}.strategy={strategy}" for place in range(3)]
    growing.simulate(strategy, *PLAIN, *phases, lender=lender)
    store = Store.open(growing.folder / strategy)
    assert [one.site for one in store.find("2.3.1").manifest.federation.accepted] == ["a", "b"]
    found = sites_folder(growing.folder / strategy).glob("a/*/*/*.safetensors")
    kept = {path.stem: read_state(path) for path in found}
    ranks = {
        version: {min(part.shape) for name, part in state.items() if "lora" in name} for version, state in kept.items()
    }
    assert ranks == {"1.2.1": {4}, "2.3.1": {4}}
    factors = {version: sum("lora_B" in name for name in state) for version, state in kept.items()}
    assert factors == {"1.2.1": 2, "2.3.1": 4}


def test_more_layers_than_the_base_has_are_refused_before_the_first_round(growing: Federation, lender: Lender) -> None:
    with pytest.raises(FedreleaseError, match="no place for the adapter of phase deep.*layers = last:9.*fewer layers"):
        growing.simulate("deep", *PLAIN, "phase.2.adapter.layers=last:9", lender=lender)
    assert growing.versions("deep") == []


def test_labels_and_adapter_may_grow_in_one_round(growing: Federation, lender: Lender) -> None:
    labels = ('model.labels=["negative", "positive", "odd"]', 'phase.0.labels=["negative", "positive"]')
    both = (*labels, 'phase.1.labels=["negative", "positive", "odd"]')
    growing.simulate("both", *PLAIN, *both, "data.server_holdout=0.2", lender=lender)
    assert growing.versions("both") == VERSIONS
    store = Store.open(growing.folder / "both")
    state = store.find("1.2.1").state()
    assert len(state["head.bias"]) == 3 and {min(state[name].shape) for name in state if "lora" in name} == {4}
    assert all("accuracy" in one.manifest.metrics.server for one in store.releases()), "the server looked at every form"
    assert verify(store).ok
