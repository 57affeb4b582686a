import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_sites import START, receipt
from safetensors.torch import load_file, save_file

from fedrelease.messages import Answer
from fedrelease.server.spool import Screened, Spool, sweep_spools
from fedrelease.update import state_bytes, state_digest

PARENT = "sha256:" + "0" * 64


def answer(site: str) -> Answer:
    return Answer(site=site, examples=7, metrics={"steps": 3.0}, receipt=receipt(site))


def screened(site: str, more: float = 0.0) -> Screened:
    return Screened(site=site, delta={name: value + more for name, value in START.items()}, answer=answer(site))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool" / "0.1.1", parent=PARENT)
    for site in ("b", "a.b", "a"):
        spool.accept([screened(site)])
    return spool


def found(folder: Path) -> frozenset[str]:
    """What a process that comes later finds there."""
    return Spool(folder, parent=PARENT).accepted()


@pytest.fixture
def folder(spool: Spool, tmp_path: Path) -> Path:
    return tmp_path / "spool" / "0.1.1"


def test_an_update_comes_back_with_all_that_was_accepted_in_the_order_of_names(spool: Spool, folder: Path) -> None:
    assert [update.site for update in spool.updates()] == ["a", "a.b", "b"]
    first = spool.updates()[0]
    assert (first.examples, first.metrics, first.receipt) == (7, {"steps": 3.0}, receipt("a"))
    assert first.digest == state_digest(START)
    assert first.size_bytes == len(state_bytes(START))
    assert all(torch.equal(first.tensors[name], START[name]) for name in START)


def test_accepting_again_replaces(spool: Spool) -> None:
    spool.accept([screened("a", more=1.0)])
    assert len(spool.updates()) == 3
    assert torch.equal(spool.updates()[0].tensors["head.bias"], torch.ones(2))


def test_updates_that_arrived_together_are_each_what_they_would_be_alone(tmp_path: Path, spool: Spool) -> None:
    together = Spool(tmp_path / "spool" / "0.1.2", parent=PARENT)
    together.accept([screened("b"), screened("a.b"), screened("a")])
    assert sorted(path.name for path in (tmp_path / "spool" / "0.1.2").iterdir()) == ["b.json", "b.safetensors"]
    assert [update.digest for update in together.updates()] == [update.digest for update in spool.updates()]
    for one, other in zip(together.updates(), spool.updates(), strict=True):
        assert replace(one, tensors={}) == replace(other, tensors={})
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in START)
        assert set(one.tensors) == set(START)


def test_one_altered_update_does_not_take_those_beside_it_along(tmp_path: Path) -> None:
    together = Spool(tmp_path / "spool" / "0.1.2", parent=PARENT)
    together.accept([screened("a", more=0.5), screened("b", more=0.25)])
    path = tmp_path / "spool" / "0.1.2" / "a.safetensors"
    altered = load_file(path)
    altered["head.bias"][1] += 1
    save_file(altered, path)
    assert together.accepted() == {"a", "b"}  # what it has written itself it need not doubt
    assert found(tmp_path / "spool" / "0.1.2") == {"a"}


def test_an_update_counts_only_once_its_facts_are_written(spool: Spool, folder: Path) -> None:
    (folder / "a.json").unlink()
    (folder / ".b.json.1234.tmp").write_bytes((folder / "b.json").read_bytes())
    assert found(folder) == {"a.b", "b"}


def test_an_update_of_another_parent_does_not_count(spool: Spool, folder: Path) -> None:
    assert found(folder) == {"a", "a.b", "b"}
    assert Spool(folder, parent="sha256:" + "1" * 64).accepted() == frozenset()


@pytest.mark.parametrize("name", ["a.safetensors", "a.json"])
def test_a_torn_file_does_not_count_wherever_it_was_torn(spool: Spool, folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}:
        (folder / name).write_bytes(whole[:length])
        assert found(folder) == {"a.b", "b"}
    (folder / name).write_bytes(whole)
    assert found(folder) == {"a", "a.b", "b"}


@pytest.mark.parametrize("name", ["a.safetensors", "a.json"])
def test_one_changed_byte_anywhere_is_noticed(spool: Spool, folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(len(whole)):
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "a" not in found(folder), f"byte {place} of {name}"


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"seal": 1}', "[" * 100_000, "\x00"])
def test_facts_that_are_something_else_do_not_count(spool: Spool, folder: Path, text: str) -> None:
    (folder / "a.json").write_text(text)
    assert found(folder) == {"a.b", "b"}


def test_facts_with_more_examples_than_were_accepted_do_not_count(spool: Spool, folder: Path) -> None:
    facts = json.loads((folder / "a.json").read_bytes())
    told = facts["updates"]["a"]
    told["answer"] = told["answer"].replace('"examples": 7', '"examples": 7000')
    (folder / "a.json").write_text(json.dumps(facts))
    assert "7000" in (folder / "a.json").read_text()
    assert "a" not in found(folder)


def test_dropping_removes_the_folder_and_a_missing_one_is_empty(spool: Spool, folder: Path) -> None:
    spool.drop()
    assert not folder.exists()
    assert spool.updates() == ()
    spool.drop()


@pytest.mark.parametrize("keep", [True, False])
def test_sweeping_removes_torn_files_and_finished_rounds_and_nothing_that_counts(
    spool: Spool, folder: Path, keep: bool
) -> None:
    torn = folder / ".a.json.12.tmp"
    torn.write_bytes(b"{")
    finished = Spool(folder.parent / "0.0.9", parent=PARENT)
    finished.accept([screened("a")])
    sweep_spools(folder.parent, unfinished=frozenset({"0.1.1"}), keep=keep)
    assert not torn.exists()
    assert found(folder) == {"a", "a.b", "b"}
    assert found(folder.parent / "0.0.9") == ({"a"} if keep else frozenset())
