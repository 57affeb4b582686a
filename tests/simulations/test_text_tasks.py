"""Real federations that learn numbers, any number of labels, and labels of pairs: from files to predictions and exports."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from federations import Federation
from text_tasks import (
    MANY,
    MANY_MODEL,
    NUMBER_MODEL,
    PAIR_MODEL,
    labelled,
    make_pair_base,
    numbered,
    paired,
    write_csv,
)
from tiny import BAD, GOOD, experiment_text

from fedrelease.cli import run
from fedrelease.server.exports import Wanted, export
from fedrelease.server.gates.items import Items
from fedrelease.server.judging import report_of
from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

Capture = pytest.CaptureFixture[str]
GATES = "[phase.gates.quality]\nmargin = 0.9\n"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One task: lines of [model] and [data], the columns of its rows, and how one is made."""

    model: str
    data: str
    header: tuple[str, ...]
    row: Callable[..., tuple[object, ...]]


KINDS = {
    "regression": Kind(
        model=NUMBER_MODEL, data="range = [-3.0, 3.0]\ntolerance = 1.0", header=("text", "label"), row=numbered
    ),
    "multi-label-classification": Kind(
        model=MANY_MODEL,
        data="",
        header=("text", "label"),
        row=lambda numbers: (lambda text, kinds: (text, "|".join(kinds)))(*labelled(numbers)),
    ),
    "pair-classification": Kind(
        model=PAIR_MODEL, data='text_pair = "second"', header=("text", "second", "label"), row=paired
    ),
}
EXACT = 'unit = "none"\naccountant = "rdp"'


def made(folder: Path, task: str) -> Federation:
    """Two sites and two rounds in the store ``plain``, without privacy, its updates kept."""
    kind, base = KINDS[task], make_pair_base(folder / "base")
    rows = write_csv(folder / "rows.csv", kind.header, kind.row, 90)
    keep, training = "keep_updates = true", "epochs = 10\nhead_lr = 0.05"
    text = experiment_text(base, rows, model=kind.model, federation=keep, privacy=EXACT, training=training, phase=GATES)
    text = text.replace("[data]\n", f"[data]\n{kind.data}\n")
    text = text.replace("\nlr = 0.01\n", "\nlr = 0.003\n")
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    federation = Federation(folder=folder, file=folder / "tiny.toml", rows=rows, cache=folder / "cache")
    federation.simulate("plain")
    return federation


@pytest.fixture(scope="module", params=sorted(KINDS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def federation(task: str, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return made(tmp_path_factory.mktemp(task), task)


@pytest.fixture
def store(federation: Federation) -> Store:
    return Store.open(federation.folder / "plain")


@pytest.fixture
def here(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("FEDRELEASE_CACHE", str(federation.cache))
    return ["--store", str(federation.folder / "plain")]


WATCHED = {"regression": "r2", "multi-label-classification": "micro_f1", "pair-classification": "accuracy"}


def test_training_teaches_the_task(store: Store, task: str) -> None:
    before, after = (store.find(version).manifest.metrics.mean for version in ("0.0.0", "0.1.2"))
    assert after["loss"] < before["loss"]
    assert after[WATCHED[task]] > before[WATCHED[task]] + 0.03


def test_every_byte_verifies_and_every_round_comes_out_the_same_again(store: Store) -> None:
    assert verify(store).ok
    assert [one.outcome for one in recompute(store)] == ["same", "same"]


def test_gates_compare_releases_item_by_item(store: Store, task: str) -> None:
    release = store.find("0.1.2")
    items = Items.from_bytes(release.read("items"))
    rows = sum(site["examples"] for site in release.manifest.metrics.sites.values())
    assert len(items) == rows
    answers = {"regression": {"off", "near"}, "pair-classification": {"no", "yes"}}
    many = {"good", "not good", "bad", "not bad", "end", "not end"}
    assert set(items.labels) == answers.get(task, many)
    report = report_of(release)
    assert report is not None
    told = {finding.slice for finding in report.findings if finding.gate == "quality"}
    assert "overall" in told and ("class:good" in told) == (task == "multi-label-classification")


def test_a_report_tells_each_label_and_of_numbers_there_is_none(store: Store, task: str) -> None:
    told = json.loads(store.find("0.1.2").read("report.json"))["a"]
    labels = {"regression": set(), "pair-classification": {"no", "yes"}}
    assert set(told) == labels.get(task, set(MANY))


ASKED = {
    "regression": [f"the film {GOOD[0]} {GOOD[1]} {GOOD[2]}", f"{BAD[0]} {BAD[1]} {BAD[2]} plot"],
    "multi-label-classification": [f"{GOOD[0]} film {BAD[0]}", "the film was a plot"],
    "pair-classification": [f"the film {GOOD[0]} it was | the film {GOOD[1]} it was"],
}


def said(here: list[str], task: str, capsys: Capture) -> list[dict[str, object]]:
    flags = ["--separator", "|"] if task == "pair-classification" else []
    assert run(["predict", *here, *flags, "--json", *ASKED[task]]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["predictions"]
    return found


def test_predict_answers_as_the_task_does(here: list[str], task: str, capsys: Capture) -> None:
    found = said(here, task, capsys)
    if task == "regression":
        assert -3 <= found[1]["number"] < 0 < found[0]["number"] <= 3  # type: ignore[operator]
    elif task == "pair-classification":
        assert (
            set(found[0]) == {"text", "text_pair", "label", "score"}
            and found[0]["text_pair"] == f"the film {GOOD[1]} it was"
        )
    else:
        scores = found[0]["scores"]
        assert isinstance(scores, dict) and set(scores) == set(MANY)
        assert found[0]["labels"] == sorted((one for one in MANY if scores[one] > 0.5), key=lambda one: -scores[one])


def test_predict_shows_people_a_line_for_each_text(here: list[str], task: str, capsys: Capture) -> None:
    flags = ["--separator", "|"] if task == "pair-classification" else []
    assert run(["predict", *here, *flags, *ASKED[task]]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    first = {"regression": "number", "multi-label-classification": "labels", "pair-classification": "label"}
    assert header.split()[0] == first[task] and len(lines) == len(ASKED[task])


def test_a_pair_is_asked_for_with_one_mark_and_other_tasks_take_none(
    here: list[str], task: str, capsys: Capture
) -> None:
    flags = [] if task == "pair-classification" else ["--separator", "|"]
    assert run(["predict", *here, *flags, "a film | a book"]) == 2
    assert ("this is no pair of texts" if not flags else "takes no pairs") in capsys.readouterr().err


def test_with_privacy_metrics_are_noised_within_the_budget(federation: Federation, task: str) -> None:
    private = ("privacy.unit=example", "privacy.epsilon=400", "phase.0.rounds=1", "training.epochs=1")
    federation.simulate("private", *private)
    site = Store.open(federation.folder / "private").find("0.1.1").manifest.metrics.sites["a"]
    assert 0 <= site["accuracy"] <= 1 and "loss" not in site
    assert task == "pair-classification" or set(site) - {"accuracy", "macro_f1", "examples"}
    assert all(0 < spent <= 400 for spent in federation.spent("private").values())


@pytest.mark.slow
def test_virtual_sites_draw_pairs_and_phases_add_labels_to_them(tmp_path: Path) -> None:
    federation = made(tmp_path, "pair-classification")
    short = ("phase.0.rounds=1", "training.epochs=1")
    federation.simulate("virtual", "data.partition.by=virtual", "data.partition.sites=6", *short)
    assert 0 <= Store.open(tmp_path / "virtual").find("0.1.1").manifest.metrics.mean["accuracy"] <= 1
    lines = federation.rows.read_text(encoding="utf-8").splitlines()
    some = [line.replace(",yes,", ",both,") if place % 3 == 0 else line for place, line in enumerate(lines)]
    federation.rows.write_text("\n".join(some) + "\n", encoding="utf-8")
    grows = 'labels = ["no", "yes"]\n\n[[phase]]\nname = "three"\nrounds = 1\nlabels = ["no", "yes", "both"]'
    text = federation.file.read_text(encoding="utf-8").replace("[phase.gates.quality]\nmargin = 0.9", grows)
    federation.file.write_text(text.replace('["no", "yes"]', '["no", "yes", "both"]', 1), encoding="utf-8")
    federation.simulate("grown", *short)
    assert Store.open(tmp_path / "grown").find("1.2.1").manifest.task.labels == ("no", "yes", "both")


FORMATS = [
    "safetensors",
    "hf",
    pytest.param("onnx", marks=pytest.mark.slow),
    pytest.param("int8", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("format", FORMATS)
def test_exports_say_what_the_release_says(
    federation: Federation, store: Store, task: str, tmp_path: Path, format: str
) -> None:
    rows = federation.rows if format in ("hf", "int8") else None
    wanted = Wanted(format=format, out=tmp_path / "out", rows=rows)
    done = export(store, store.find("stable"), wanted, cache=federation.cache)
    states = {found.state for found in done.variant.findings if found.gate in ("logits", "agreement")}
    assert states == {"pass"}


def test_the_lines_of_a_merged_export_say_the_number_labels_or_scores_that_predict_says(
    federation: Federation, store: Store, task: str, tmp_path: Path, here: list[str], capsys: Capture
) -> None:
    wanted = Wanted(format="hf", merged=True, out=tmp_path / "out")
    done = export(store, store.find("stable"), wanted, cache=federation.cache)
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    assert done.variant.verdict == "pass" and "pipeline_tag: text-classification" in card
    ends = {
        "regression": "print(number)",
        "multi-label-classification": "print(float(scores[0]))",
        "pair-classification": "print(float(logits.softmax(1).max()))",
    }
    done_alone = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ends[task]}"], cwd=done.folder, capture_output=True, text=True, check=True
    )
    texts = ["a warm and funny film" + (" | it is worth seeing twice" if task == "pair-classification" else "")]
    flags = ["--separator", "|"] if task == "pair-classification" else []
    assert run(["predict", *here, *flags, "--json", *texts]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    told = found.get("number", found.get("score", found.get("scores", {}).get("good")))
    assert float(done_alone.stdout) == pytest.approx(told, abs=1e-4)


def test_data_check_takes_the_rows_and_says_what_is_wrong_with_others(
    federation: Federation, task: str, here: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert run(["data", "check", str(federation.rows), "--experiment", str(federation.file)]) == 0
    capsys.readouterr()
    lines = federation.rows.read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "broken.csv"
    bad = {
        "regression": "a film,9,a",
        "multi-label-classification": "a film,cheap,a",
        "pair-classification": "a film,,no,a",
    }
    broken.write_text("\n".join([*lines, bad[task]]) + "\n", encoding="utf-8")
    assert run(["data", "check", str(broken), "--experiment", str(federation.file)]) == 1
    told = capsys.readouterr().out
    reasons = {"regression": "not between -3 and 3", "multi-label-classification": "not one of good, bad, end"}
    assert reasons.get(task, "'second' is empty") in told
