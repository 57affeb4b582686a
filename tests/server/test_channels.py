"""Named pointers."""

from pathlib import Path

import pytest
from faults import Fault, Killed, disk

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes
from fedrelease.server.channels import Channels, Pointer, move, read

ONE = Pointer(version="0.1.1", digest=f"sha256:{'1' * 64}")
TWO = Pointer(version="0.1.2", digest=f"sha256:{'2' * 64}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    move(tmp_path / "channels.json", {"candidate": ONE, "stable": ONE})
    return tmp_path / "channels.json"


def test_no_file_means_generation_0_without_pointers(tmp_path: Path) -> None:
    assert read(tmp_path / "channels.json") == Channels(generation=0, previous=None, channels={})


def test_a_move_changes_the_named_channels_only_and_raises_the_generation(path: Path) -> None:
    before = path.read_bytes()
    assert move(path, {"candidate": TWO}) == read(path)
    assert read(path) == Channels(
        generation=2, previous=digest_bytes(before), channels={"candidate": TWO, "stable": ONE}
    )


def test_a_move_that_changes_nothing_makes_no_generation(path: Path) -> None:
    before = path.read_bytes()
    assert move(path, {"stable": ONE}).generation == 1
    assert path.read_bytes() == before


def test_a_rollback_has_a_higher_generation_than_what_it_undoes(path: Path) -> None:
    move(path, {"stable": TWO})
    assert move(path, {"stable": ONE}).generation == 3


def test_the_channels_of_a_version_are_listed(path: Path) -> None:
    assert read(path).pointing_at("0.1.1") == ("candidate", "stable")
    assert read(path).pointing_at("0.1.2") == ()


def test_an_unknown_channel_is_refused_and_the_known_ones_are_listed(path: Path) -> None:
    with pytest.raises(StoreError, match="anchor, beta, canary, candidate, stable"):
        move(path, {"gold": TWO})


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"channels":{},"generation":1.5,"previous":null}', '{"a":1}', "\xff"]
)
def test_a_damaged_file_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DamagedRelease, match=r"channels\.json is damaged"):
        read(path)


def test_a_kill_at_any_call_moves_all_channels_or_none(path: Path) -> None:
    before = read(path)
    for instant in range(1, 20):
        with disk(Fault(instant)):
            try:
                move(path, {"candidate": TWO, "stable": TWO})
            except Killed:
                pass
            else:
                break
        assert read(path) in (before, Channels(generation=2, previous=read(path).previous, channels=_both(TWO)))
    assert read(path).channels == _both(TWO)


def _both(pointer: Pointer) -> dict[str, Pointer]:
    return {"candidate": pointer, "stable": pointer}
