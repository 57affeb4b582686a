"""Whole federations, with real processes, of models that fill gaps and of models that write one text for another."""

from collections.abc import Callable
from pathlib import Path

import pytest
from federations import Federation
from tiny import make_masked_base, make_pairs, make_rows, make_sequence_base, masked_experiment, sequence_experiment

from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

SETTINGS = {"privacy": 'epsilon = 8.0\naccountant = "rdp"', "federation": "keep_updates = true"}
OPEN = ("privacy.unit=none", "data.server_holdout=0.2", "training.epochs=8", "model.adapter.layers=all")
MADE: dict[str, tuple[Callable[..., Path], Callable[..., Path], Callable[..., str]]] = {
    "masked-lm": (make_masked_base, make_rows, masked_experiment),
    "seq2seq": (make_sequence_base, make_pairs, sequence_experiment),
}


@pytest.fixture(scope="module", params=MADE)
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder, (base, rows, text) = tmp_path_factory.mktemp("telling"), MADE[request.param]
    csv, file = rows(folder / "rows.csv", sites=("a", "b"), rows=24), folder / "tiny.toml"
    file.write_text(text(base(folder / "base"), csv, **SETTINGS), encoding="utf-8")
    return Federation(folder=folder, file=file, rows=csv, cache=folder / "cache")


@pytest.mark.slow
def test_a_private_federation_verifies_and_can_be_computed_again(federation: Federation) -> None:
    federation.simulate("private")
    store = Store.open(federation.folder / "private")
    assert verify(store).ok
    assert [one.outcome for one in recompute(store)] == ["same", "same"]
    told = [release.manifest.metrics.mean for release in store.releases()]
    assert all({"accuracy", "perplexity"} <= one.keys() and "rouge_l" not in one for one in told)


@pytest.mark.slow
def test_without_privacy_perplexity_falls(federation: Federation) -> None:
    federation.simulate("learns", *OPEN)
    before, *_, after = (one.manifest.metrics.server for one in Store.open(federation.folder / "learns").releases())
    assert after["perplexity"] < before["perplexity"]
    assert ("rouge_l" in after) is (federation.file.read_text().count("seq2seq") == 1)
