"""Channels moved from the command line."""

import json

import pytest

from fedrelease.cli import run
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]


def typed(capsys: Capture, store: Store, *arguments: str, code: int = 0) -> str:
    assert run([*arguments, "--store", str(store.folder)]) == code
    return capsys.readouterr().out


def at(store: Store, channel: str) -> str:
    return store.channels().channels[channel].version


def test_promote_rollback_and_yank_say_which_channel_went_where(example_store: Store, capsys: Capture) -> None:
    assert typed(capsys, example_store, "promote", "0.1.2", "--to", "beta") == "beta: nothing -> 0.1.2\n"
    assert typed(capsys, example_store, "promote", "0.1.4", "--to", "beta") == "beta: 0.1.2 -> 0.1.4\n"
    assert typed(capsys, example_store, "rollback", "beta", "--reason", "worse") == "beta: 0.1.4 -> 0.1.2\n"
    said = typed(capsys, example_store, "yank", "0.1.2", "--reason", "wrong labels")
    assert said == "0.1.2 is yanked\nbeta: 0.1.2 -> nothing\n"
    assert "beta" not in example_store.channels().channels


def test_the_log_knows_who_moved_a_channel_and_why(example_store: Store, capsys: Capture) -> None:
    typed(capsys, example_store, "promote", "0.1.2", "--to", "beta", "--reason", "fair at all sites", "--actor", "ada")
    line = example_store.history()[-1]
    assert (line.event, line.actor, line.reason, line.channels) == ("promote", "ada", "fair at all sites", ("beta",))
    assert example_store.channels().move is not None and example_store.channels().move.actor == "ada"


def test_a_move_as_json_tells_before_and_after(example_store: Store, capsys: Capture) -> None:
    said = json.loads(typed(capsys, example_store, "promote", "0.1.2", "--to", "stable", "--actor", "ada", "--json"))
    generation = example_store.channels().generation
    assert said == {
        "verb": "promote",
        "version": "0.1.2",
        "generation": generation,
        "before": {"stable": "0.1.4"},
        "after": {"stable": "0.1.2"},
        "reason": None,
        "actor": "ada",
    }


def test_what_is_so_already_says_so(example_store: Store, capsys: Capture) -> None:
    said = typed(capsys, example_store, "promote", at(example_store, "stable"), "--to", "stable")
    assert said == "nothing to do: it is so already\n"


def test_pause_and_resume(example_store: Store, capsys: Capture) -> None:
    assert typed(capsys, example_store, "pause", "stable") == "paused\n"
    error = json.loads(typed(capsys, example_store, "promote", "0.1.2", "--to", "stable", "--json", code=1))["error"]
    assert (error["what"], error["hint"]) == ("stable is paused", "fedrelease resume stable")
    assert typed(capsys, example_store, "resume", "stable") == "moves again\n"
    typed(capsys, example_store, "promote", "0.1.2", "--to", "stable")
    assert at(example_store, "stable") == "0.1.2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("promote", "0.1.3", "--to", "stable"), "held by its gates"),
        (("promote", "0.7.7", "--to", "stable"), "no such release"),
        (("promote", "0.1.2", "--to", "gold"), "unknown channel"),
        (("rollback", "beta"), "beta has nothing to go back to"),
        (("yank", "0.1.2"), "for a reason"),
    ],
)
def test_what_cannot_be_moved_is_refused_with_the_way_out(
    example_store: Store, capsys: Capture, arguments: tuple[str, ...], said: str
) -> None:
    before = (example_store.folder / "channels.json").read_bytes()
    error = json.loads(typed(capsys, example_store, *arguments, "--json", code=1))["error"]
    assert said in error["what"] and error["hint"] + error["rule"]
    assert (example_store.folder / "channels.json").read_bytes() == before
