"""A real federation that tags words, from files of words and tags to predictions and exports."""

import json
from pathlib import Path

import pytest
from federations import Federation
from tiny import GOOD, TAGGING, experiment_text, make_tagged_rows

from fedrelease.cli import run
from fedrelease.server.events import Event, SiteAnswered
from fedrelease.server.exports import Wanted, export
from fedrelease.server.gates.items import Items
from fedrelease.server.judging import report_of
from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations.report import summary_rows

Capture = pytest.CaptureFixture[str]
GATES = "[phase.gates.quality]\nmargin = 0.5\n"


@pytest.fixture(scope="module")
def federation(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two sites and two rounds in the store ``plain``, without privacy, its updates kept."""
    folder = tmp_path_factory.mktemp("tagging")
    rows = make_tagged_rows(folder / "rows.jsonl", sites=("a", "b"), rows=60)
    file = folder / "tiny.toml"
    file.write_text(
        experiment_text(
            tiny_base,
            rows,
            model=TAGGING,
            federation="keep_updates = true",
            privacy='unit = "none"\naccountant = "rdp"',
            training="epochs = 6\nhead_lr = 0.1",
            phase=GATES,
        ),
        encoding="utf-8",
    )
    made = Federation(folder=folder, file=file, rows=rows, cache=folder / "cache")
    made.simulate("plain")
    return made


@pytest.fixture
def store(federation: Federation) -> Store:
    return Store.open(federation.folder / "plain")


@pytest.fixture
def here(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(federation.cache))
    return ["--store", str(federation.folder / "plain")]


def test_names_are_found_after_training_and_none_before(store: Store) -> None:
    before, *_, after = summary_rows(store)
    assert before.shown == {"entity_f1": 0.0}
    assert (after.shown["entity_f1"] or 0) > 0.5


def test_every_byte_verifies_and_every_round_comes_out_the_same_again(store: Store) -> None:
    assert verify(store).ok
    assert [one.outcome for one in recompute(store)] == ["same", "same"]


def test_the_report_of_a_release_tells_tags_and_types_of_entities_of_each_site(store: Store) -> None:
    told = json.loads(store.find("0.1.2").read("report.json"))
    assert set(told) == {"a", "b"}
    assert {"O", "B-good", "entity good", "entity bad"} <= set(told["a"])
    assert set(told["a"]["entity good"]) == {"precision", "recall", "f1", "support"}


def test_gates_compare_releases_word_by_word(store: Store) -> None:
    release = store.find("0.1.2")
    items, words = Items.from_bytes(release.read("items")), release.manifest.metrics.sites
    assert len(items) == sum(site["examples"] for site in words.values())
    report = report_of(release)
    assert report is not None and "quality" in {finding.gate for finding in report.findings}


@pytest.mark.slow
def test_a_run_that_stops_between_two_answers_goes_on_to_the_same_digest(federation: Federation) -> None:
    answered: list[str] = []

    def stop(event: Event) -> None:
        if isinstance(event, SiteAnswered):
            answered.append(event.step)
            if answered.count("train") == 3:  # the first answer of the second round
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federation.simulate("stopped", watch=stop)
    federation.simulate("stopped")
    assert answered.count("train") == 3
    assert federation.digest("stopped") == federation.digest("plain")


def test_with_privacy_metrics_are_noised_and_no_count_of_a_type_leaves(federation: Federation) -> None:
    private = ("privacy.unit=example", "privacy.epsilon=1000", "phase.0.rounds=1", "training.epochs=1")
    federation.simulate("private", *private)
    release = Store.open(federation.folder / "private").find("0.1.1")
    site = release.manifest.metrics.sites["a"]
    assert 0 <= site["entity_f1"] <= 1 and 0 <= site["accuracy"] <= 1
    assert site["examples"] != round(site["examples"])  # rows are spread over their words, and noise is no whole number
    assert "entity good" not in json.loads(release.read("report.json"))["a"]
    assert all(spent <= 1000 for spent in federation.spent("private").values())


def test_predict_tells_each_words_tag_and_the_entities_with_their_places(here: list[str], capsys: Capture) -> None:
    text = f"the film {GOOD[0]} {GOOD[1]}, was quite a plot"
    assert run(["predict", *here, "--json", text, "  "]) == 0
    said, blank = json.loads(capsys.readouterr().out)["predictions"]
    assert said["words"] == text.replace(",", " ,").split()
    assert len(said["tags"]) == len(said["words"]) == len(said["scores"])
    (name,) = said["entities"]
    assert (name["type"], name["text"]) == ("good", f"{GOOD[0]} {GOOD[1]}")
    assert text[name["start"] : name["end"]] == name["text"]
    assert 0 < name["score"] <= 1
    assert blank == {"text": "  ", "words": [], "tags": [], "scores": [], "entities": []}


def test_predict_shows_people_a_line_for_each_word(here: list[str], capsys: Capture) -> None:
    assert run(["predict", *here, f"a {GOOD[0]} film"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["word", "tag", "score", "entity", "its", "score"]
    assert [line.split()[:2] for line in lines if line.strip()] == [["a", "O"], [GOOD[0], "B-good"], ["film", "O"]]
    assert f"good: {GOOD[0]}" in lines[1]


def test_every_word_of_a_text_longer_than_the_model_takes_has_a_tag(here: list[str], capsys: Capture) -> None:
    """64 tokens go through at once; a word that never went through would have score 0."""
    assert run(["predict", *here, "--json", "the film was " * 50 + GOOD[0]]) == 0
    (said,) = json.loads(capsys.readouterr().out)["predictions"]
    assert len(said["words"]) == len(said["tags"]) == len(said["scores"]) == 151
    assert min(said["scores"]) > 0


def test_lists_of_releases_show_entity_f1_beside_accuracy(here: list[str], capsys: Capture) -> None:
    assert run(["log", *here]) == 0
    assert "entity_f1" in capsys.readouterr().out
    assert run(["log", *here, "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["releases"][-1]["metrics"]["entity_f1"] <= 1


@pytest.mark.parametrize("format", ["hf", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_exports_say_what_the_release_says(federation: Federation, store: Store, tmp_path: Path, format: str) -> None:
    wanted = Wanted(format=format, out=tmp_path / "out")
    done = export(store, store.find("stable"), wanted, cache=federation.cache)
    assert done.variant.verdict == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "int8"])
def test_onnx_says_what_the_release_says(federation: Federation, store: Store, tmp_path: Path, format: str) -> None:
    rows = make_tagged_rows(tmp_path / "rows.jsonl", sites=("a",), rows=120, seed=9)
    wanted = Wanted(format=format, out=tmp_path / "out", rows=rows)
    done = export(store, store.find("stable"), wanted, cache=federation.cache)
    assert {found.state for found in done.variant.findings if found.gate in ("logits", "agreement")} == {"pass"}


def test_a_merged_export_opens_in_transformers_pipeline_with_the_names_that_predict_finds(
    federation: Federation, store: Store, tmp_path: Path, here: list[str], capsys: Capture
) -> None:
    from transformers import pipeline

    text = f"the film {GOOD[0]} {GOOD[1]} was quite a plot"
    wanted = Wanted(format="hf", merged=True, out=tmp_path / "out")
    done = export(store, store.find("stable"), wanted, cache=federation.cache)
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert done.variant.verdict == "pass"
    assert "pipeline_tag: token-classification" in card and "- f1" in card
    names = pipeline("token-classification", model=str(tmp_path / "out"), aggregation_strategy="simple")(text)
    assert run(["predict", *here, "--json", text]) == 0
    (said,) = json.loads(capsys.readouterr().out)["predictions"]
    assert [(one["entity_group"], one["start"], one["end"]) for one in names] == [
        (one["type"], one["start"], one["end"]) for one in said["entities"]
    ]
    assert names[0]["score"] == pytest.approx(said["entities"][0]["score"], abs=1e-4)
