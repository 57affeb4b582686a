"""A federation over somebody's own folder of images: from pixels to predictions and exports, with and without privacy."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedrelease.cli import run
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

TEXT = """
[federation]
name = "squares"
evaluators = 1.0
[model]
base = "cnn:1x8x8-4"
task = "image-classification"
labels = ["dark", "light"]
[model.adapter]
kind = "full"
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


def squares(folder: Path) -> Path:
    """Two sites with grey squares; the light ones are light."""
    numbers = torch.Generator().manual_seed(3)
    for site in ("north", "south"):
        for label, shift in (("dark", 40), ("light", 160)):
            (folder / site / label).mkdir(parents=True)
            for place in range(16):
                grey = torch.randint(0, 60, (12, 10), generator=numbers) + shift
                image = Image.frombytes("L", (10, 12), bytes(grey.to(torch.uint8).flatten().tolist()))
                image.save(folder / site / label / f"{place}.png")
    return folder


@pytest.fixture(params=['unit = "none"', 'epsilon = 50.0\naccountant = "rdp"\nmetrics = "exact"'])
def store(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    text = TEXT.format(photos=squares(tmp_path / "photos"), privacy=request.param)
    (tmp_path / "my.toml").write_text(text)
    arguments = ["simulate", str(tmp_path / "my.toml"), "--store", str(tmp_path / "releases"), "--quiet", "--json"]
    assert run(arguments) == 0, capsys.readouterr()
    capsys.readouterr()
    return tmp_path / "releases"


def test_light_and_dark_are_told_apart_and_files_are_labelled_and_exported(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Store.open(store)
    assert verify(found).problems == ()
    assert found.find("0.1.1").manifest.metrics.mean["accuracy"] > 0.8
    files = [str(tmp_path / "photos" / "north" / label / "0.png") for label in ("dark", "light")]
    assert run(["predict", "--release", "0.1.1", "--store", str(store), "--json", *files]) == 0
    told = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["label"] for one in told] == ["dark", "light"]
    out = ["--format", "safetensors", "--out", str(tmp_path / "out")]
    assert run(["export", "0.1.1", "--store", str(store), *out]) == 0, capsys.readouterr()


def test_a_file_that_is_no_image_is_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--release", "0.1.1", "--store", str(store), str(tmp_path / "none.png")]) == 1
    assert "none.png is no image that can be read" in capsys.readouterr().err
