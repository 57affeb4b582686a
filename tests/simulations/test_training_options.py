"""Whole federations with every training option that goes together: repeatable, resumable, with and without privacy."""

from pathlib import Path

import pytest
from federations import Federation
from other_bases import lite_base
from test_image_folders_federation import squares
from tiny import experiment_text, make_rows

from fedrelease.cli import run
from fedrelease.server.events import Event, Released
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

BOTH = (
    "training.label_smoothing=0.1",
    "training.dropout=0.2",
    "training.augment.tokens=0.2",
    "training.checkpointing=true",
)
PRIVATE = (*BOTH, "training.class_weights={ positive = 2.0 }")
OPEN = (
    *BOTH,
    "privacy.unit=none",
    "training.balance_classes=true",
    "training.keep_best=true",
    "training.epochs=2",
)


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    folder = tmp_path_factory.mktemp("options")
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=24)
    file = folder / "tiny.toml"
    file.write_text(experiment_text(tiny_base, rows, privacy='epsilon = 8.0\naccountant = "rdp"'), encoding="utf-8")
    return Federation(folder=folder, file=file, rows=rows, cache=folder / "cache")


def stop_after_a_round(event: Event) -> None:
    if isinstance(event, Released) and event.version == "0.1.1":
        raise Stopped


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PRIVATE, OPEN], ids=["private", "open"])
def test_a_federation_that_was_stopped_ends_with_the_digest_of_one_that_was_not(
    federation: Federation, settings: tuple[str, ...]
) -> None:
    whole, stopped = (f"{name}-{len(settings)}" for name in ("whole", "stopped"))
    federation.simulate(whole, *settings)
    with pytest.raises(Stopped):
        federation.simulate(stopped, *settings, watch=stop_after_a_round)
    assert federation.simulate(stopped, *settings).resumed
    assert federation.digest(stopped) == federation.digest(whole)
    assert verify(Store.open(federation.folder / whole)).ok


@pytest.mark.parametrize("privacy", ['unit = "none"', 'epsilon = 50.0\naccountant = "rdp"\nmetrics = "exact"'])
def test_the_head_alone_learns_on_an_efficientnet_and_is_exported(
    privacy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEAD.format(base=lite_base(tmp_path), photos=squares(tmp_path / "photos"), privacy=privacy)
    (tmp_path / "my.toml").write_text(text)
    store = str(tmp_path / "releases")
    assert run(["simulate", str(tmp_path / "my.toml"), "--store", store, "--quiet"]) == 0, capsys.readouterr()
    release = Store.open(tmp_path / "releases").find("0.1.1")
    assert sorted(release.state()) == ["head.bias", "head.weight"]
    assert release.manifest.metrics.mean["accuracy"] > 0.8
    out = ["--format", "safetensors", "--out", str(tmp_path / "out")]
    assert run(["export", "0.1.1", "--store", store, *out]) == 0, capsys.readouterr()


HEAD = """
[federation]
name = "squares"
[model]
base = "{base}"
task = "image-classification"
labels = ["dark", "light"]
[model.adapter]
kind = "head"
[data]
source = "{photos}"
pixels = "1x8x8"
holdout = 0.3
partition = {{ by = "column", column = "site" }}
[training]
epochs = 6
batch_size = 8
lr = 0.05
[privacy]
{privacy}
[[phase]]
rounds = 1
"""
