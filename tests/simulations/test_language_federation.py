"""Whole federations of a language model, with real processes: repeatable, resumable, verified, gated token by token."""

import math

import pytest
from federations import Federation
from tiny import language_experiment, make_language_base, make_rows

from fedrelease.server.events import Event, Released
from fedrelease.server.judging import report_of
from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

GATES = 'gates = { quality = { severity = "warn", class_severity = "warn", site_severity = "warn" } }'
LEARNS = (
    "privacy.unit=none",
    "data.server_holdout=0.2",
    "training.epochs=4",
    "training.lr=0.05",
    "model.adapter.layers=all",
)


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("language")
    base = make_language_base(folder / "base")
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=24)
    settings = {"privacy": 'epsilon = 8.0\naccountant = "rdp"', "federation": "keep_updates = true", "phase": GATES}
    file = folder / "tiny.toml"
    file.write_text(language_experiment(base, rows, **settings), encoding="utf-8")
    return Federation(folder=folder, file=file, rows=rows, cache=folder / "cache")


def stop_after_a_round(event: Event) -> None:
    if isinstance(event, Released) and event.version == "0.1.1":
        raise Stopped


@pytest.mark.slow
def test_a_private_federation_that_was_stopped_ends_with_the_digest_of_one_that_was_not(federation: Federation) -> None:
    federation.simulate("whole")
    with pytest.raises(Stopped):
        federation.simulate("stopped", watch=stop_after_a_round)
    assert federation.simulate("stopped").resumed
    assert federation.digest("stopped") == federation.digest("whole")
    assert federation.spent("stopped") == federation.spent("whole")
    store = Store.open(federation.folder / "whole")
    assert verify(store).ok
    assert [one.outcome for one in recompute(store)] == ["same", "same"]
    for release in store.releases():
        assert {"accuracy", "perplexity"} <= release.manifest.metrics.mean.keys()


@pytest.mark.slow
def test_without_privacy_perplexity_falls_and_gates_compare_tokens(federation: Federation) -> None:
    federation.simulate("learns", *LEARNS)
    before, *_, after = Store.open(federation.folder / "learns").releases()
    zero_shot, learned = (one.manifest.metrics.server for one in (before, after))
    assert learned["perplexity"] < zero_shot["perplexity"]
    assert learned["perplexity"] == pytest.approx(math.exp(learned["loss"]))
    report = report_of(after)
    assert report is not None
    (whole,) = (found for found in report.findings if found.gate == "quality" and found.slice == "overall")
    assert whole.evidence["n"] >= zero_shot["examples"]
