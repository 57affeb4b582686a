"""docs/adding-a-task.md, followed to the letter in a copy of the package: the task trains, releases and predicts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tiny import experiment_text, make_rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-task.md").read_text(encoding="utf-8")
ROOMS = ("client", "server", "simulations", "strategies")


def copied(folder: Path) -> Path:
    """The package as it is installed, in a folder of its own."""
    package = folder / "fedrelease"
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "fedrelease", package, ignore=leave)
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=leave)
    return package


def follow(package: Path) -> None:
    """The page's three steps."""
    tasks = package / "tasks"
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tasks / "ordered_labels.py").write_text(code)
    (line,) = re.findall(r"`(from fedrelease\.tasks\.ordered_labels import \w+)`", PAGE)
    own = (
        (tasks / "__init__.py")
        .read_text()
        .replace("\nfrom fedrelease.tasks.text", f"\n{line}\nfrom fedrelease.tasks.text")
    )
    (tasks / "__init__.py").write_text(own.replace("for task in (", "for task in (ORDERED_LABELS, "))
    experiment = package / "experiment_sections.py"
    text = experiment.read_text()
    assert text.count("\nTASKS = (\n") == 1
    experiment.write_text(text.replace("\nTASKS = (\n", '\nTASKS = (\n    "ordered-labels",\n'))


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 60


def test_who_follows_the_page_has_a_task_that_trains_releases_and_predicts(tmp_path: Path, tiny_base: Path) -> None:
    follow(copied(tmp_path))
    make_rows(tmp_path / "rows.csv", sites=("a", "b"), rows=24)
    text = experiment_text(tiny_base, tmp_path / "rows.csv", rounds="1", privacy='epsilon = 30.0\naccountant = "rdp"')
    (tmp_path / "my.toml").write_text(text.replace("[model]\n", '[model]\ntask = "ordered-labels"\n'))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FEDRELEASE_CACHE": str(tmp_path / "cache")}
    environment["FEDRELEASE_KEYS"] = str(tmp_path / "keys")

    def command(*arguments: str) -> dict[str, object]:
        program = [sys.executable, "-m", "fedrelease.cli", *arguments, "--json"]
        done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    assert command("simulate", "my.toml", "--quiet", "--workers", "1")["head"] == "0.1.1"
    released = command("log")["releases"]
    assert "mean_distance" in released[-1]["metrics"]  # type: ignore[index]
    (told,) = command("predict", "--release", "0.1.1", "a good film")["predictions"]  # type: ignore[misc]
    assert told["label"] in ("negative", "positive")  # type: ignore[index]
