"""A real small federation that learns a third label: with privacy and gates, stopped and gone on, and asked afterwards."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from federations import Federation, write_federation

from fedrelease.server.beginnings import Beginnings
from fedrelease.server.events import Event, RoundStarted
from fedrelease.server.judging import report_of
from fedrelease.server.lifecycle import By
from fedrelease.server.predict import predict
from fedrelease.server.recompute import recompute
from fedrelease.server.retraction import retract
from fedrelease.server.signing import own_signer
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

LABELS = ("negative", "positive", "neutral")
PHASES = """labels = ["negative", "positive"]
gates = { quality = { severity = "warn", class_severity = "warn", site_severity = "warn" } }
[[phase]]
name = "more"
rounds = 1
labels = ["negative", "positive", "neutral"]
gates = { quality = { severity = "warn", class_severity = "warn", site_severity = "warn" } }
"""
SETTINGS = ('model.labels=["negative", "positive", "neutral"]', "federation.seed=3")
PLAIN = ("privacy.unit=none",)


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    """Every third row is neutral; so many that noise leaves no site without a row of the old labels, wherever the folder lies."""
    made = write_federation(tmp_path_factory.mktemp("growing"), tiny_base, rows=90, rounds="1", phase=PHASES)
    head, *lines = made.rows.read_text(encoding="utf-8").splitlines()
    lines[::3] = [line.replace("negative", "neutral").replace("positive", "neutral") for line in lines[::3]]
    made.rows.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def private(growing: Federation) -> Store:
    growing.simulate("private", *SETTINGS)
    return Store.open(growing.folder / "private")


@pytest.fixture(scope="module")
def plain(growing: Federation) -> Store:
    growing.simulate("plain", *SETTINGS, *PLAIN)
    return Store.open(growing.folder / "plain")


def slices(store: Store, version: str) -> Sequence[tuple[str, str]]:
    report = report_of(store.find(version))
    assert report is not None
    return [(finding.slice, finding.state) for finding in report.findings if finding.gate == "quality"]


def test_every_version_predicts_with_the_labels_that_it_knew(growing: Federation, plain: Store) -> None:
    assert growing.versions("plain") == ["0.0.0", "0.1.1", "1.2.1"]
    for version, labels in (("0.0.0", LABELS[:2]), ("0.1.1", LABELS[:2]), ("1.2.1", LABELS)):
        (found,) = predict(plain.find(version), ["the film was good"], cache=growing.cache)
        assert found.label in labels
        assert 1 / len(labels) <= found.score <= 1
    assert verify(plain).ok


def test_the_quality_gate_compares_old_labels_item_by_item_and_skips_the_new_one(plain: Store) -> None:
    found = slices(plain, "1.2.1")
    assert ("class:neutral", "skipped") in found
    assert {"old-labels", "class:negative", "class:positive"} <= {name for name, _ in found}
    assert not [name for name, state in found if state == "error"]


def test_with_privacy_old_labels_are_compared_by_noisy_accuracies_and_every_ledger_keeps_to_its_budget(
    growing: Federation, private: Store
) -> None:
    found = slices(private, "1.2.1")
    assert found[0][0] == "old-labels"
    assert not [name for name, state in found if state == "error"]
    assert all(7.5 < spent <= 8.0 for spent in growing.spent("private").values())


@pytest.mark.slow
def test_a_run_that_is_stopped_before_the_round_that_grows_ends_with_the_same_digest(
    growing: Federation, private: Store
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.version == "1.2.1":
            raise Stopped

    with pytest.raises(Stopped):
        growing.simulate("stopped", *SETTINGS, watch=stop)
    growing.simulate("stopped", *SETTINGS)
    head = private.head()
    assert head is not None and growing.digest("stopped") == head.digest


def test_the_round_that_learned_a_label_comes_out_again_and_is_rebuilt_with_rows_drawn_from_its_base(
    growing: Federation,
) -> None:
    """The new row is the base's own vector of the new label's text."""
    texts = 'model.label_texts=["a bad film", "a good film", "a film"]'
    growing.simulate("kept", *SETTINGS, *PLAIN, texts, "federation.keep_updates=true")
    store, beginnings = Store.open(growing.folder / "kept"), Beginnings(growing.cache)
    found = {one.version: one.outcome for one in recompute(store, beginnings=beginnings)}
    assert found == {"0.1.1": "same", "1.2.1": "same"}
    signed = Store.open(store.folder, signer=own_signer())
    with signed.lock():
        done = retract(signed, "b", by=By(reason="leaves"), beginnings=beginnings)
    assert [old for old, _ in done.rebuilt] == ["0.1.1", "1.2.1"]
    assert len(signed.find(done.head).state()["head.bias"]) == 3
    assert {one.outcome for one in recompute(signed, beginnings=beginnings)} == {"same"}
