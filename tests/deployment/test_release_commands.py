"""``site fetch`` and ``site follow`` as a partner types them, and the base that a site's answers then use."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from example_store import publish
from release_services import Federation, at_port, make_federation, serving

from fedrelease.cli import run
from fedrelease.client.deployment.rows import base_of
from fedrelease.errors import StoreError
from fedrelease.messages import Request
from fedrelease.models.bases import open_base
from fedrelease.server.deployment.register import dismiss
from fedrelease.server.store import Store

Capture = pytest.CaptureFixture[str]
# Flower's own use of another library, when an invitation names the app.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """A federation whose service listens, and where the site knows."""
    monkeypatch.setenv("FEDRELEASE_KEYS", str(tmp_path / "site-keys"))
    made = make_federation(tmp_path, weights=b"weights")
    with serving(made.server) as port:
        yield replace(made, site=at_port(made.site, port))


def typed(capsys: Capture, *arguments: str, code: int = 0) -> dict[str, object]:
    assert run([*arguments, "--json"]) == code
    return cast(dict[str, object], json.loads(capsys.readouterr().out))


def test_the_base_that_was_fetched_is_the_one_that_answers_use_whatever_the_cache_has(
    own: Federation, cache: Path, capsys: Capture
) -> None:
    told = typed(capsys, "site", "fetch", "--folder", str(own.site.folder))
    wanted = open_base(str(own.base), cache=cache)
    assert told == {"base": wanted.digest, "folder": str(own.site.folder / "bases" / wanted.digest)}
    asked = SimpleNamespace(base=wanted.digest, experiment=SimpleNamespace(model=SimpleNamespace(base="minilm")))
    assert base_of(own.site, cast(Request, asked)).digest == wanted.digest
    with pytest.raises(StoreError, match="no sha256"):
        base_of(own.site, cast(Request, SimpleNamespace(base="../../home", experiment=asked.experiment)))


def test_a_release_is_fetched_into_a_store_that_the_reading_verbs_open(own: Federation, capsys: Capture) -> None:
    store = own.site.folder / "releases"
    at = ("--folder", str(own.site.folder), "--store", str(store))
    told = typed(capsys, "site", "fetch", "stable", *at)
    assert (told["version"], told["digest"]) == ("0.1.2", own.store.find("0.1.2").digest)
    assert typed(capsys, "show", "stable", "--store", str(store))["version"] == "0.1.2"
    assert typed(capsys, "verify", "--store", str(store))["ok"] is True
    error = typed(capsys, "site", "fetch", "0.9.9", *at, code=1)["error"]
    assert "0.9.9" in str(error)


def test_a_dismissed_site_reads_why_and_what_to_do(own: Federation, capsys: Capture) -> None:
    dismiss(own.server, "amazon")
    error = typed(capsys, "site", "fetch", "--folder", str(own.site.folder), code=1)["error"]
    assert isinstance(error, dict) and "not that of an admitted site" in error["what"]
    assert error["hint"] == "ask the operator whether this site was dismissed"


def test_following_keeps_a_copy_up_to_date_until_it_is_told_to_stop(own: Federation, capsys: Capture) -> None:
    store = own.site.folder / "releases"

    def act() -> None:
        _wait_for(store, "0.1.2")
        with own.store.lock():
            publish(own.store, 4, told=True)
        _wait_for(store, "0.1.4")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=act)
    thread.start()
    told = typed(capsys, "site", "follow", "stable", "--folder", str(own.site.folder), "--store", str(store))
    thread.join()
    assert told == {"channel": "stable", "store": str(store), "moves": 2, "digest": own.store.find("0.1.4").digest}


def _wait_for(store: Path, version: str) -> None:
    for _ in range(300):
        try:
            if Store.open(store).channels().channels["stable"].version == version:
                return
        except (StoreError, KeyError):
            pass
        threading.Event().wait(0.05)
    os.kill(os.getpid(), signal.SIGTERM)  # the assertion on what was told fails then


def test_an_unknown_channel_is_refused_before_anybody_is_asked(own: Federation, capsys: Capture) -> None:
    error = typed(capsys, "site", "follow", "latest", "--folder", str(own.site.folder), code=1)["error"]
    assert isinstance(error, dict) and error["what"] == "unknown channel"
