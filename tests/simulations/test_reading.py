"""A real federation that keeps its updates: computed again, judged again, measured, and rebuilt without a site."""

import json
from pathlib import Path

import pytest
from federations import Federation, write_federation

from fedrelease.cli import run
from fedrelease.server.measuring import peak_memory, seconds_in_turns, texts_of
from fedrelease.server.predict import predict
from fedrelease.server.recompute import recompute
from fedrelease.server.rejudging import rejudge
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

GATES = "[phase.gates.quality]\nmargin = 0.3\n"


@pytest.fixture(scope="module")
def federation(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Three sites and two rounds in the store ``kept``."""
    made = write_federation(
        tmp_path_factory.mktemp("reading"),
        tiny_base,
        sites=("a", "b", "c"),
        federation="keep_updates = true",
        privacy='epsilon = 8.0\naccountant = "rdp"\nmetrics = "exact"',
        phase='strategy = { name = "fedavgm" }\n' + GATES,
    )
    made.simulate("kept")
    return made


@pytest.fixture
def store(federation: Federation) -> Store:
    return Store.open(federation.folder / "kept")


def test_what_real_sites_sent_gives_the_released_bits_again(store: Store) -> None:
    assert [(one.version, one.outcome) for one in recompute(store)] == [("0.1.1", "same"), ("0.1.2", "same")]


def test_the_gates_of_a_real_release_say_again_what_they_said(store: Store) -> None:
    again = rejudge(store, store.find("0.1.2"))
    assert not again.is_new and "quality" in {finding.gate for finding in again.report.findings}


def test_releases_answer_texts_of_their_own_source_in_turns(federation: Federation, store: Store) -> None:
    releases = [store.find("0.1.2"), store.find("0.1.1")]
    texts = texts_of(releases[0], cache=federation.cache, most=5)
    seconds = seconds_in_turns(releases, texts, cache=federation.cache, turns=4)
    assert len(texts) == 5 and set(seconds) == {"0.1.1", "0.1.2"}
    assert all(len(one) == 4 and min(one) > 0 for one in seconds.values())


@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_a_process_which_holds_the_base(federation: Federation, store: Store) -> None:
    assert 50_000_000 < peak_memory(store.find("0.1.2"), ["a good film"], cache=federation.cache) < 8_000_000_000


def test_a_real_line_is_rebuilt_without_a_site_and_the_run_has_nothing_left_to_do(
    federation: Federation, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = store.find("0.1.2").manifest.privacy
    ledgers = federation.ledger_bytes("kept")
    assert run(["retract", "c", "--store", str(store.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"] == "0.1.4"
    head = store.find("0.1.4")
    assert spent is not None and head.manifest.privacy is not None
    assert head.manifest.privacy.epsilon_total == spent.epsilon_total
    said: list[str] = []
    summary = federation.simulate("kept", said=said)
    assert summary.head == "0.1.4" and said[-1].startswith("nothing to do")
    assert federation.ledger_bytes("kept") == ledgers
    assert verify(store).ok and {one.outcome for one in recompute(store)} == {"same"}
    assert predict(head, ["a good film"], cache=federation.cache)[0].label in ("negative", "positive")
