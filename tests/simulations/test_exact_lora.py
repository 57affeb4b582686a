"""Whole federations with exact averages of LoRA: a residual beside averaged factors, or a core between frozen bases."""

from pathlib import Path

import pytest
import torch
from federations import Federation, write_federation

from fedrelease.errors import ExperimentError
from fedrelease.factors import residuals_of, trained_part
from fedrelease.manifest import RESIDUAL
from fedrelease.server.events import Event, SiteAnswered
from fedrelease.server.journal import LogEntry
from fedrelease.server.predict import predict
from fedrelease.server.release import Release
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

FEDEX = ("phase.0.strategy=fedex-lora", "model.adapter.residual=true")
CORE = ("phase.0.strategy=fed-sb", "model.adapter.kind=lora-sb")
HEADER = 2048
"""Bytes that a file of tensors has at most beside their numbers, in a federation as small as this."""


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("exact"), tiny_base)


def releases(federation: Federation, store: str) -> dict[str, Release]:
    return {release.version: release for release in Store.open(federation.folder / store).releases()}


def entry(federation: Federation, store: str, version: str) -> LogEntry:
    found = {entry.version: entry for entry in Store.open(federation.folder / store).history()}
    return found[version]


def stop_in_round_2(event: Event) -> None:
    if isinstance(event, SiteAnswered) and (event.version, event.step) == ("0.1.2", "train"):
        raise Stopped


@pytest.mark.slow
def test_a_private_run_that_was_stopped_goes_on_to_the_same_digest_and_misses_nothing(federation: Federation) -> None:
    with pytest.raises(Stopped):
        federation.simulate("stopped", *FEDEX, watch=stop_in_round_2)
    assert federation.simulate("stopped", *FEDEX).resumed
    undisturbed = federation.simulate("undisturbed", *FEDEX, workers=2)
    assert federation.digest("stopped") == undisturbed.head_digest
    assert federation.spent("stopped") == federation.spent("undisturbed")
    assert verify(Store.open(federation.folder / "stopped")).ok
    release = releases(federation, "stopped")["0.1.2"]
    state = dict(release.state())
    assert len(residuals_of(state)) == 2 and all(state[name].any() for name in residuals_of(state))
    assert RESIDUAL not in release.manifest.metrics.server, "0 is not told"
    found = predict(release, ["the film was great"], cache=federation.cache)
    assert found[0].label in ("negative", "positive") and 0.5 <= found[0].score <= 1


def test_the_residual_goes_down_and_not_up_and_another_strategy_leaves_it_as_it_was(
    tmp_path: Path, tiny_base: Path
) -> None:
    phases = 'strategy = "fedex-lora"\n[[phase]]\nname = "then"\nrounds = 1\nstrategy = "scaffold"'
    plain = write_federation(tmp_path, tiny_base, privacy='unit = "none"', rounds="1", phase=phases)
    plain.simulate("plain", "model.adapter.residual=true")
    states = {version: dict(release.state()) for version, release in releases(plain, "plain").items()}
    first, second, residuals = states["0.1.1"], states["0.2.1"], residuals_of(states["0.0.0"])
    assert not any(states["0.0.0"][name].any() for name in residuals)
    assert all(first[name].any() and torch.equal(first[name], second[name]) for name in residuals)
    assert not any(torch.equal(first[name], second[name]) for name in trained_part(first))
    told = entry(plain, "plain", "0.1.1")
    trained = sum(tensor.nbytes for tensor in trained_part(first).values())
    whole = sum(tensor.nbytes for tensor in first.values())
    assert whole - trained == 2 * 32 * 32 * 4 and told.bytes_up is not None and told.bytes_down is not None
    assert 0 < told.bytes_up - 2 * trained < 2 * HEADER, "two sites send what they train"
    assert told.bytes_down >= 4 * whole, "two train from the whole state and two look at it"


def test_without_a_residual_it_is_refused_before_anything_is_made(federation: Federation) -> None:
    with pytest.raises(ExperimentError, match=r"fedex-lora has nowhere to put.*model.adapter\] residual = true"):
        federation.simulate("refused", FEDEX[0])
    assert not (federation.folder / "refused").exists()


@pytest.mark.slow
def test_a_private_run_with_cores_that_was_stopped_goes_on_to_the_same_digest(federation: Federation) -> None:
    with pytest.raises(Stopped):
        federation.simulate("core-stopped", *CORE, watch=stop_in_round_2)
    assert federation.simulate("core-stopped", *CORE).resumed
    undisturbed = federation.simulate("core", *CORE, workers=2)
    assert federation.digest("core-stopped") == undisturbed.head_digest
    assert federation.spent("core-stopped") == federation.spent("core")
    assert verify(Store.open(federation.folder / "core")).ok
    release = releases(federation, "core")["0.1.2"]
    state = dict(release.state())
    assert {name.rpartition(".")[2] for name in state} == {"lora_R", "weight", "bias"}
    assert all(tensor.any() for tensor in state.values())
    assert release.manifest.adapter.kind == "lora-sb" and RESIDUAL not in release.manifest.metrics.server
    assert predict(release, ["the film was great"], cache=federation.cache)[0].label in ("negative", "positive")


def test_cores_alone_travel_and_robust_rules_take_them(tmp_path: Path, tiny_base: Path) -> None:
    phases = 'strategy = "fed-sb"\n[[phase]]\nname = "then"\nrounds = 1\nstrategy = "median"'
    plain = write_federation(tmp_path, tiny_base, privacy='unit = "none"', rounds="1", phase=phases)
    plain.simulate("plain", CORE[1])
    states = {version: dict(release.state()) for version, release in releases(plain, "plain").items()}
    assert not any(torch.equal(states["0.1.1"][name], tensor) for name, tensor in states["0.2.1"].items())
    told, numbers = entry(plain, "plain", "0.1.1"), 2 * 2 * 2 + 2 * 32 + 2  # two cores of 2 x 2, and the head
    assert told.bytes_up is not None and 0 < told.bytes_up - 2 * numbers * 4 < 2 * HEADER


def test_a_rule_for_factors_is_refused_before_anything_is_made(federation: Federation) -> None:
    with pytest.raises(ExperimentError, match="flexlora does not work with this adapter"):
        federation.simulate("none", "phase.0.strategy=flexlora", CORE[1])
    with pytest.raises(ExperimentError, match="fed-sb does not work with this adapter"):
        federation.simulate("none", CORE[0])
    assert not (federation.folder / "none").exists()
