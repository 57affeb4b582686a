from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_store import SITES, make_store
from huggingface_hub import ModelCard, metadata_load
from released import make_released, make_released_images
from scipy.optimize import brentq

from fedrelease.files import digest_bytes
from fedrelease.gate_rules import QualityRule
from fedrelease.manifest import FileEntry
from fedrelease.server.card import card, metadata
from fedrelease.server.card_numbers import wilson
from fedrelease.server.card_privacy import privacy_words
from fedrelease.server.gates import GateReport
from fedrelease.server.gates.items import Items
from fedrelease.server.gates.words import finding
from fedrelease.server.journal import entry_for
from fedrelease.server.judging import attach_report
from fedrelease.server.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("card") / "store")


def test_the_hubs_own_reader_finds_the_metadata(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(card(store.find("stable")), encoding="utf-8")
    assert metadata_load(path) == metadata(store.find("stable"))
    data = ModelCard.load(path).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("peft", "text-classification", ["accuracy", "f1"])
    assert data.tags == ["federated-learning", "fedrelease", "differential-privacy"]


def test_a_card_of_the_same_release_is_the_same_every_time(store: Store) -> None:
    assert card(store.find("0.1.2")) == card(store.find("0.1.2"))


def test_privacy_is_told_in_words_with_unit_epsilon_delta_and_what_lies_outside(store: Store) -> None:
    text = card(store.find("0.1.4"))
    assert "What is protected: one example of a site." in text
    assert "Epsilon 6.00 at delta 1e-05" in text
    assert "at most a factor of 403" in text  # e ^ 6 = 403.4
    assert "Not covered:" in text
    assert "comes from a seed" in text
    assert "may reveal rows" in privacy_words(None)


def test_names_and_reasons_of_sites_cannot_write_markup_or_escapes(store: Store) -> None:
    text = card(store.find("0.1.2"))
    assert "Refused: tweets: not finite \\\\x1b\\[2J\\[red\\]" in text
    assert "\x1b" not in text


def test_a_held_release_says_so_among_its_limits(store: Store) -> None:
    held, released = card(store.find("0.1.3")), card(store.find("0.1.4"))
    assert "held this release back" in held
    assert "held this release back" not in released


def test_lineage_names_the_digest_and_its_parents(store: Store) -> None:
    release = store.find("0.1.2")
    assert f"Release: {release.digest}" in card(release)
    assert f"Made from: {store.find('0.1.1').digest}" in card(release)
    assert "Made from: the base alone" in card(store.find("0.0.0"))


def test_without_items_metrics_are_those_of_the_sites_and_the_card_says_that_it_has_no_intervals(store: Store) -> None:
    text = card(store.find("stable"))
    assert "| mean of sites | 0.8 | - | 0.7 |" in text
    assert all(f"| site {site} |" in text for site in SITES)
    assert "Without intervals" in text


def test_what_sites_keep_private_is_not_in_the_card(tmp_path: Path) -> None:
    text = card(make_store(tmp_path / "store", rounds=1, told=False).find("0.1.1"))
    assert "The sites keep their metrics private." in text
    assert "metrics:" not in text


def test_with_items_every_slice_has_its_interval(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", rounds=1)
    items = Items(
        evaluation=digest_bytes(b"rows"),
        labels=("negative", "positive"),
        truth=np.array([0] * 60 + [1] * 40),
        predicted=np.array([0] * 50 + [1] * 10 + [1] * 31 + [0] * 9),
        loss=np.zeros(100, dtype=np.float32),
        group=("movie",) * 100,
    )
    head = store.head()
    assert head is not None
    data = items.to_bytes()
    kept = FileEntry(path="items.safetensors", sha256=digest_bytes(data), size=len(data), role="items")
    manifest = replace(head.manifest, version="0.1.2", parents=(head.digest,), files=(*head.manifest.files, kept))
    with store.lock():
        store.put_blob(data)
        store.publish(manifest, entry_for(manifest, channels=(), time="2031-05-01T12:00:00+00:00"))
    text = card(store.find("0.1.2"))
    assert "| all items | 0.810 (0.722 to 0.875) | 100 |" in text  # 81 of 100
    assert "| label negative | 0.833 (0.720 to 0.907) | 60 |" in text  # 50 of 60
    assert "| site movie | 0.810 (0.722 to 0.875) | 100 |" in text


@pytest.mark.parametrize(("hits", "n"), [(81, 100), (0, 20), (20, 20), (1, 3)])
def test_wilsons_bounds_are_the_shares_that_a_score_test_just_keeps(hits: int, n: int) -> None:
    """The independent twin: solve (hits / n - p) ^ 2 = z ^ 2 p (1 - p) / n for p."""

    def beyond(p: float) -> float:
        return float((hits / n - p) ** 2 - 1.959963984540054**2 * p * (1 - p) / n)

    low, high = wilson(hits, n)
    assert low == pytest.approx(0.0 if hits == 0 else brentq(beyond, 1e-12, hits / n - 1e-12), abs=1e-9)
    assert high == pytest.approx(1.0 if hits == n else brentq(beyond, hits / n + 1e-12, 1 - 1e-12), abs=1e-9)


def test_the_report_of_the_gates_is_in_the_card(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", rounds=1)
    release = store.find("0.1.1")
    assert "No gate looked at this release." in card(release)
    found = finding("quality", QualityRule(), "fail", "-9.0 points on 400 items", against="stable 0.0.0")
    with store.lock():
        attach_report(
            store,
            GateReport(version="0.1.1", digest=release.digest, findings=(found,), evaluation=None, looks=0),
        )
    assert "Verdict: held: quality against stable 0.0.0: -9.0 points on 400 items." in card(release)
    assert "| quality | overall | fail | -9.0 points on 400 items |" in card(release)


def test_a_card_tells_the_source_without_the_path_of_a_machine(tmp_path: Path, tiny_base: Path) -> None:
    text = card(make_released(tmp_path, tiny_base).find("stable"))
    assert "Source: rows.csv, divided among sites by column." in text
    assert str(tmp_path) not in text
    assert str(tiny_base.parent) not in text
    assert "base_model" not in text


def test_a_card_of_an_image_classifier_says_how_to_export_it(tmp_path: Path) -> None:
    text = card(make_released_images(tmp_path).find("stable"))
    assert "pipeline_tag: image-classification" in text
    assert "--format onnx" in text
