"""Named pointers, and every generation of them."""

import random
from pathlib import Path

import pytest
from faults import Fault, Killed, disk

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes
from fedrelease.server import layout
from fedrelease.server.channels import Channels, Move, Pointer, Retired, generations, read, served, write

ONE, TWO, THREE = (Pointer(version=f"0.1.{n}", digest=f"sha256:{str(n) * 64}") for n in (1, 2, 3))


def move(root: Path, verb: str, **targets: Pointer | None) -> Channels:
    moved = read(root).then(targets, Move(verb=verb, actor="ada", time="2031-05-01T12:00:00+00:00", reason="why not"))
    if moved != read(root):
        write(root, moved)
    return read(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layout.create(tmp_path)
    layout.prepare(tmp_path)
    move(tmp_path, "publish", candidate=ONE, stable=ONE)
    return tmp_path


def test_no_file_means_generation_0_without_pointers(tmp_path: Path) -> None:
    assert read(tmp_path) == Channels(generation=0, previous=None, channels={})
    assert list(generations(tmp_path)) == [] and served(tmp_path, "stable") == ()


def test_a_move_changes_the_named_channels_only_and_raises_the_generation(root: Path) -> None:
    before = (root / "channels.json").read_bytes()
    moved = move(root, "publish", candidate=TWO)
    assert (moved.generation, moved.previous) == (2, digest_bytes(before))
    assert dict(moved.channels) == {"candidate": TWO, "stable": ONE}
    assert moved.move == Move(verb="publish", actor="ada", time="2031-05-01T12:00:00+00:00", reason="why not")


def test_a_move_that_changes_nothing_makes_no_generation(root: Path) -> None:
    before = (root / "channels.json").read_bytes()
    assert move(root, "promote", stable=ONE).generation == 1
    assert (root / "channels.json").read_bytes() == before


def test_every_generation_is_kept_and_found_from_the_one_after_it(root: Path) -> None:
    move(root, "publish", stable=TWO)
    move(root, "rollback", stable=ONE)
    assert [(one.generation, one.channels["stable"].version) for one in generations(root)] == [
        (3, "0.1.1"),
        (2, "0.1.2"),
        (1, "0.1.1"),
    ]


def test_a_generation_that_is_missing_altered_or_out_of_order_is_damage(root: Path) -> None:
    first = (root / "channels.json").read_bytes()
    moved = move(root, "publish", stable=TWO)
    blob = root / "blobs" / "sha256" / str(moved.previous)
    blob.unlink()
    with pytest.raises(DamagedRelease, match=str(moved.previous)[:12]):
        list(generations(root))
    blob.write_bytes(first)
    blob.chmod(0o644)
    forged = facts.to_bytes(Channels(generation=7, previous=moved.previous, channels=moved.channels, move=moved.move))
    (root / "channels.json").write_bytes(forged)
    with pytest.raises(DamagedRelease, match="generation 7 of channels.json follows from 1"):
        list(generations(root))


def test_channels_that_do_not_follow_from_those_of_the_store_are_refused(root: Path) -> None:
    stale = read(root).then({"stable": TWO}, Move(verb="promote", actor="ada", time="t"))
    move(root, "publish", stable=THREE)
    with pytest.raises(StoreError, match="do not follow"):
        write(root, stale)
    assert read(root).channels["stable"] == THREE


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([("publish", TWO), ("publish", THREE)], "123"),
        ([("publish", TWO), ("rollback", ONE)], "1"),
        ([("publish", TWO), ("publish", THREE), ("rollback", TWO), ("rollback", ONE)], "1"),
        ([("publish", TWO), ("rollback", ONE), ("promote", THREE)], "13"),
        ([("publish", TWO), ("promote", ONE), ("rollback", TWO)], "12"),
        ([("publish", TWO), ("yank", ONE), ("promote", TWO)], "12"),
        ([("yank", None), ("promote", TWO)], "2"),
    ],
)
def test_what_a_channel_goes_back_through_is_what_it_served_and_was_not_undone(
    root: Path, moves: list[tuple[str, Pointer | None]], expected: str
) -> None:
    for verb, pointer in moves:
        move(root, verb, stable=pointer)
    assert "".join(pointer.version[-1] for pointer in served(root, "stable")) == expected
    assert served(root, "candidate") == (ONE,), "another channel has its own past"


def test_the_channels_of_a_version_are_listed(root: Path) -> None:
    assert read(root).pointing_at("0.1.1") == ("candidate", "stable")
    assert read(root).pointing_at("0.1.2") == ()


def test_an_unknown_channel_or_verb_is_refused_and_the_known_ones_are_listed(root: Path) -> None:
    with pytest.raises(StoreError, match="anchor, beta, canary, candidate, stable"):
        move(root, "publish", gold=TWO)
    with pytest.raises(StoreError, match="pause, promote, publish"):
        move(root, "demote", stable=TWO)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"channels":{},"generation":1.5,"previous":null}', '{"a":1}', "\xff"]
)
def test_a_damaged_file_is_refused(root: Path, text: str) -> None:
    (root / "channels.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedRelease, match=r"channels\.json is damaged"):
        read(root)


def test_a_flipped_bit_in_any_generation_is_found(root: Path) -> None:
    chance, moved = random.Random(3), move(root, "publish", stable=TWO)
    blob = root / "blobs" / "sha256" / str(moved.previous)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    for at in chance.sample(range(len(whole)), 40):
        blob.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedRelease):
            list(generations(root))


def test_a_kill_at_any_call_moves_all_channels_or_none(root: Path) -> None:
    before, both = read(root), {"candidate": TWO, "stable": TWO}
    for instant in range(1, 40):
        with disk(Fault(instant)):
            try:
                move(root, "publish", **both)
            except Killed:
                pass
            else:
                break
        assert read(root) == before or dict(read(root).channels) == both
        assert len(list(generations(root))) == read(root).generation
    assert dict(read(root).channels) == both


def test_a_move_that_retired_nothing_has_the_bytes_that_it_had_before_there_was_such_a_thing() -> None:
    data = b'{"actor":"ada","reason":null,"time":"2031-05-01T12:00:00+00:00","verb":"pause"}'
    move = facts.from_bytes(Move, data)
    assert move.retired is None and facts.to_bytes(move) == data
    with pytest.raises(DamagedRelease, match="not in its canonical form"):
        facts.from_bytes(Move, data.replace(b'"time"', b'"retired":null,"time"'))


def test_a_generation_that_retires_moves_nothing_and_rollbacks_look_past_it(tmp_path: Path) -> None:
    layout.create(tmp_path)
    layout.prepare(tmp_path)
    move(tmp_path, "promote", stable=ONE)
    before = move(tmp_path, "promote", stable=TWO)
    told = Move(
        verb="retire",
        actor="ada",
        time="2031-05-01T12:00:00+00:00",
        retired=Retired(head="0.1.2", files=("ab" * 32,), rounds=("0.1.1",)),
    )
    write(tmp_path, before.again(told))
    assert (read(tmp_path).generation, read(tmp_path).channels, read(tmp_path).move) == (3, before.channels, told)
    assert served(tmp_path, "stable") == (ONE, TWO) and len(list(generations(tmp_path))) == 3
    with pytest.raises(StoreError, match="who retires says what"):
        Move(verb="retire", actor="ada", time="2031-05-01T12:00:00+00:00")
