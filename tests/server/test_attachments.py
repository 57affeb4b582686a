"""What came later about a release."""

import shutil
from pathlib import Path

import pytest
from faults import Fault, Killed, disk
from release_examples import make_store

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes
from fedrelease.server.attachments import newest_attachment
from fedrelease.server.store import Store
from fedrelease.server.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with disk(Fault(None)):  # without real fsyncs
        return make_store(tmp_path / "releases", rounds=1)


def digest(store: Store) -> str:
    return store.find("0.1.1").digest


def test_an_attachment_lies_under_the_releases_digest_its_kind_and_its_own_digest(store: Store) -> None:
    with store.lock():
        made = store.attach(digest(store), "gate-report", b"passed")
    assert made.name == f"attach/{digest(store)[7:]}/gate-report.{digest_bytes(b'passed')[:8]}"
    assert store.attachments(digest(store)) == (made,) and made.read() == b"passed"
    assert made.path.stat().st_mode & 0o777 == 0o444


def test_the_newest_of_a_kind_is_what_came_last_even_when_the_clock_stands_still(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_900_000_000_000_000_000)
    texts = [b"first", b"second", b"third"]
    with store.lock():
        for text in texts:
            store.attach(digest(store), "card", text)
            assert newest_attachment(store.folder, digest(store), "card") == text
        store.attach(digest(store), "variant", b"other")
        store.attach(digest(store), "card", b"first")  # it is there already: nothing changes
    assert [attachment.read() for attachment in store.attachments(digest(store), "card")] == texts
    assert newest_attachment(store.folder, digest(store), "gate-report") is None


def test_without_the_lock_nothing_is_attached(store: Store) -> None:
    with pytest.raises(StoreError, match="not locked"):
        store.attach(digest(store), "card", b"x")
    assert not (store.folder / "attach").exists()


@pytest.mark.parametrize("kind", ["", "../card", "Card", "a.b", "-x", "x" * 33])
def test_a_kind_is_a_word(store: Store, kind: str) -> None:
    with store.lock(), pytest.raises(StoreError, match="a word in lower case"):
        store.attach(digest(store), kind, b"x")


def test_what_is_no_digest_never_leads_out_of_the_store(store: Store) -> None:
    with store.lock(), pytest.raises(StoreError):
        store.attach("sha256:../../etc", "card", b"x")


def test_a_changed_attachment_is_refused_when_read_named_by_verify_and_mended_when_it_comes_again(store: Store) -> None:
    with store.lock():
        made = store.attach(digest(store), "card", b"text")
    assert verify(store).ok
    made.path.chmod(0o644)
    made.path.write_bytes(b"texT")
    with pytest.raises(DamagedRelease, match=made.name):
        made.read()
    assert [problem.path for problem in verify(store).problems] == [f"{made.name} (card of 0.1.1)"]
    with store.lock():
        store.attach(digest(store), "card", b"text")
    assert verify(store).ok


def test_a_kill_at_any_call_leaves_all_of_an_attachment_or_none_and_it_can_be_put_again(store: Store) -> None:
    folder, sizes = store.folder.parent / "killed", []
    for instant in range(1, 60):
        shutil.copytree(store.folder, folder)
        opened = Store.open(folder)
        with disk(Fault(instant)) as fault:
            try:
                with opened.lock():
                    opened.attach(digest(store), "card", b"text")
            except Killed:
                pass
        assert verify(opened).ok
        sizes.append(len(opened.attachments(digest(store))))
        with disk(Fault(None)), opened.lock():  # without real fsyncs
            assert opened.attach(digest(store), "card", b"text").read() == b"text"
            assert not list((folder / "tmp").iterdir())
        shutil.rmtree(folder)
        if fault.calls < instant:
            break
    assert sizes == sorted(sizes) and set(sizes) == {0, 1}
