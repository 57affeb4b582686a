"""What a user can get wrong, with the program as a user runs it: the code, the words, the way out, and nothing lost."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from federations import Federation, workers_of, write_federation

from fedrelease.server.store import Store

HEADER = "text,label,site\n"
GOOD_ROWS = "".join(f"good film {n},positive,a\nbad film {n},negative,a\n" for n in range(12))


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    """A federation with one store, at which everything goes wrong first."""
    return write_federation(tmp_path_factory.mktemp("faults"), tiny_base, rounds="1")


def assert_refused(done: CompletedProcess[str], *, code: int, said: Sequence[str], hint: bool = True) -> None:
    """Refused in words: what, the value, the rule and the way out; no traceback and no crash report."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "fault of fedrelease" not in done.stderr
    for text in ("error:", *(["try:"] if hint else []), *said):
        assert text in done.stderr


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Arguments or rows that are wrong, and what the user reads about it."""

    name: str
    said: tuple[str, ...]
    settings: tuple[str, ...] = ()
    rows: str | None = None
    code: int = 1
    hint: bool = True


MISTAKES = [
    Mistake(name="unknown key", settings=("training.epoch=2",), code=2, said=("training.epoch", "epochs")),
    Mistake(
        name="impossible value", settings=("training.lr=-1",), code=2, said=("training.lr", "given: -1", "above 0")
    ),
    Mistake(
        name="wrong type",
        settings=("phase.0.rounds=many",),
        code=2,
        said=("phase.0.rounds", "given: many", "whole number"),
        hint=False,
    ),
    Mistake(
        name="unknown strategy", settings=("phase.0.strategy=fedavgg",), code=2, said=("fedavgg", "fedavg", "rule:")
    ),
    Mistake(name="missing source", settings=("data.source=nowhere.csv",), said=("nowhere.csv", "rule:")),
    Mistake(name="missing base", settings=("model.base=no/such/base",), said=("no/such/base", "rule:")),
    Mistake(name="empty file", rows="", said=("rows.csv holds no rows", "rule:")),
    Mistake(
        name="one row",
        rows=HEADER + GOOD_ROWS + "good end,positive,lonely\n",
        said=("site lonely would have 1 row", "rule:"),
    ),
    Mistake(name="unknown label", rows=HEADER + GOOD_ROWS + "what,neutral,a\n", said=("line 26", "'neutral'", "rule:")),
    Mistake(name="NaN label", rows=HEADER + GOOD_ROWS + "good,nan,a\n", said=("line 26", "'nan'", "rule:")),
    Mistake(
        name="empty text", rows=HEADER + GOOD_ROWS + "  ,positive,a\n", said=("line 26", "'text' is empty", "rule:")
    ),
    Mistake(name="no such column", settings=("data.text=words",), said=("has no column 'words'", "text, label, site")),
    Mistake(name="too deep", settings=("model.adapter.layers=last:9",), said=("fewer layers", "last:9", "last:2")),
    Mistake(
        name="too many sites", settings=("phase.0.sites_per_round=9",), code=2, said=("wants more sites", "given: 9")
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_refused_in_words_and_leaves_no_release_and_no_process(
    mistaken: Federation, mistake: Mistake
) -> None:
    sound = mistaken.rows.read_text()
    if mistake.rows is not None:
        mistaken.rows.write_text(mistake.rows)
    settings = [part for setting in mistake.settings for part in ("--set", setting)]
    done = mistaken.command("simulate", "tiny.toml", "--store", "mistaken", "--quiet", *settings)
    mistaken.rows.write_text(sound)
    assert_refused(done, code=mistake.code, said=mistake.said, hint=mistake.hint)
    assert workers_of(mistaken.folder / "mistaken.sites") == []
    assert not (mistaken.folder / "mistaken").exists() or Store.open(mistaken.folder / "mistaken").head() is None


@pytest.fixture(scope="module")
def whole(mistaken: Federation) -> str:
    """The digest with which the federation ends once everything is mended."""
    return mistaken.simulate("mistaken").head_digest


def test_after_all_these_mistakes_the_mended_experiment_runs_in_the_same_store(
    mistaken: Federation, whole: str
) -> None:
    assert mistaken.versions("mistaken") == ["0.0.0", "0.1.1"]
    assert mistaken.digest("mistaken") == whole
    assert [entry.event for entry in Store.open(mistaken.folder / "mistaken").history()] == ["released", "released"]


def test_a_missing_experiment_is_refused(mistaken: Federation) -> None:
    done = mistaken.command("simulate", "nowhere.toml")
    assert_refused(done, code=2, said=("nowhere.toml", "rule:"))


def test_a_site_with_one_class_gets_a_note_and_takes_part(tmp_path: Path, tiny_base: Path) -> None:
    federation = write_federation(tmp_path, tiny_base, rounds="1")
    federation.rows.write_text(HEADER + GOOD_ROWS + "".join(f"great film {n},positive,b\n" for n in range(20)))
    said: list[str] = []
    federation.simulate("releases", said=said)
    assert said == ["note: site b has training rows of one label only (positive)"]
    manifest = Store.open(tmp_path / "releases").find("0.1.1").manifest
    assert [accepted.site for accepted in manifest.federation.accepted] == ["a", "b"]


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is soon full."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine allows no mounts")
    yield disk
    subprocess.run(["umount", disk], check=True)


def _goes_on(federation: Federation, store: str, undisturbed: str) -> None:
    assert federation.simulate(store).head_digest == undisturbed
    assert federation.leftovers(store) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_said_and_the_run_goes_on_when_it_may(mistaken: Federation, whole: str) -> None:
    done = mistaken.command("simulate", "tiny.toml", "--store", "limited", "--quiet", before=_small_files)
    assert_refused(done, code=1, said=("File too large", "given:"))
    _goes_on(mistaken, "limited", whole)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    mistaken: Federation, whole: str, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 100_000)
    done = mistaken.command("simulate", "tiny.toml", "--store", str(small_disk / "releases"), "--quiet")
    assert_refused(done, code=1, said=("disk is full", "free some space"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    _goes_on(mistaken, str(small_disk / "releases"), whole)


def _without_roots_powers() -> None:
    """Root may write everywhere; take that from the child (CAP_DAC_OVERRIDE out of what it may ever have)."""
    if os.geteuid() == 0 and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_a_folder_that_may_not_be_written_is_said(mistaken: Federation) -> None:
    folder = mistaken.folder / "locked"
    folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    arguments = ("simulate", "tiny.toml", "--store", "locked/releases", "--quiet")
    done = mistaken.command(*arguments, before=_without_roots_powers)
    assert_refused(done, code=1, said=("Permission denied", "given:"))
    assert list(folder.iterdir()) == []


def test_a_file_where_the_store_should_be_is_said_and_left_alone(mistaken: Federation) -> None:
    (mistaken.folder / "a file").write_text("mine")
    done = mistaken.command("simulate", "tiny.toml", "--store", "a file/releases", "--quiet")
    assert_refused(done, code=1, said=("Not a directory", "a file"))
    assert (mistaken.folder / "a file").read_text() == "mine"
