"""Whole federations whose updates travel in a codec's form, with real processes."""

from pathlib import Path

import pytest
from federations import Federation, write_federation

from fedrelease.errors import ExperimentError
from fedrelease.server.events import Event, SiteAnswered
from fedrelease.server.journal import LogEntry
from fedrelease.server.recompute import recompute
from fedrelease.server.store import Store
from fedrelease.server.verify import verify
from fedrelease.simulations import simulate as simulate_module

INT8, TOP = ("transport.codec=int8",), ("transport.codec=top-k", "transport.keep=0.1")
DIGITS = """\
[federation]
name = "digits"
seed = 3
evaluators = 0

[model]
base = "mlp:784-16"
task = "image-classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
adapter = { kind = "full" }

[data]
source = "digits"
server_holdout = 0.2
partition = { by = "virtual", sites = 100, rows = 12, alpha = 100 }

[training]
epochs = 1
batch_size = 6
lr = 0.1
optimizer = "sgd"

[privacy]
unit = "none"

[transport]
codec = "int8"
error_feedback = false

[[phase]]
rounds = 1
sites_per_round = 12
"""


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("coded"), tiny_base)


def stop(event: Event) -> None:
    if isinstance(event, SiteAnswered) and (event.version, event.step) == ("0.1.2", "train"):
        raise Stopped


def rounds(federation: Federation, store: str) -> list[LogEntry]:
    return [entry for entry in Store.open(federation.folder / store).history() if entry.version != "0.0.0"]


@pytest.mark.slow
def test_a_stopped_run_with_error_feedback_goes_on_to_the_digest_and_the_bytes_of_one_that_was_not(
    federation: Federation,
) -> None:
    settings = (*TOP, "federation.keep_updates=true")
    whole = federation.simulate("top", *settings, workers=2)
    with pytest.raises(Stopped):
        federation.simulate("stopped", *settings, watch=stop)
    assert federation.simulate("stopped", *settings).resumed
    assert federation.digest("stopped") == whole.head_digest
    sent = [entry.bytes_up for entry in rounds(federation, "top")]
    assert [entry.bytes_up for entry in rounds(federation, "stopped")] == sent
    assert verify(Store.open(federation.folder / "top")).ok
    assert [one.outcome for one in recompute(Store.open(federation.folder / "top"))] == ["same", "same"]
    assert federation.spent("stopped") == federation.spent("top")


@pytest.mark.slow
def test_int8_sends_about_a_quarter_of_the_bytes_and_costs_no_epsilon(federation: Federation) -> None:
    plain, coded = federation.simulate("plain"), federation.simulate("int8", *INT8)
    assert plain.head == coded.head == "0.1.2" and plain.epsilon == coded.epsilon
    for before, after in zip(rounds(federation, "plain"), rounds(federation, "int8"), strict=True):
        assert after.bytes_up and before.bytes_up and 0.2 < after.bytes_up / before.bytes_up < 0.35
        assert after.bytes_down == before.bytes_down


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float16", "int4"])
@pytest.mark.parametrize("phase", ['strategy = "fedsa-lora"', 'strategy = "rolora"', 'strategy = "feddyn"'])
def test_strategies_that_freeze_keep_back_or_steer_work_with_codecs(
    federation: Federation, codec: str, phase: str
) -> None:
    name = phase.split('"')[1]
    settings = (f"transport.codec={codec}", f"phase.0.strategy={name}", "privacy.unit=none")
    summary = federation.simulate(f"{name}-{codec}", *settings)
    assert summary.head == "0.1.2"
    accepted = [r.manifest.federation.accepted for r in Store.open(federation.folder / f"{name}-{codec}").releases()]
    assert [len(sites) for sites in accepted] == [0, 2, 2]


@pytest.mark.slow
def test_sites_of_several_ranks_send_in_a_codecs_form(federation: Federation) -> None:
    settings = (*INT8, "phase.0.strategy=flexlora", "privacy.unit=none", "model.adapter.site_ranks={ a = 1 }")
    assert federation.simulate("ranks", *settings).head == "0.1.2"
    accepted = [r.manifest.federation.accepted for r in Store.open(federation.folder / "ranks").releases()]
    assert [len(sites) for sites in accepted] == [0, 2, 2]


@pytest.mark.parametrize("strategy", ["fisher", "scaffold"])
def test_a_strategy_whose_sites_send_more_than_their_update_is_refused_before_anything_is_made(
    federation: Federation, strategy: str
) -> None:
    settings = (*INT8, f"phase.0.strategy={strategy}", "privacy.unit=none")
    with pytest.raises(ExperimentError, match=f"{strategy} has every site send its .*leave transport.codec out"):
        federation.simulate("refused", *settings)
    assert not (federation.folder / "refused").exists()


@pytest.mark.slow
def test_how_many_sites_are_asked_at_once_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.toml").write_text(DIGITS, encoding="utf-8")
    digits = Federation(folder=tmp_path, file=tmp_path / "digits.toml", rows=tmp_path, cache=tmp_path / "cache")
    together = digits.simulate("together")
    monkeypatch.setattr(simulate_module, "ABREAST", 1)
    assert digits.simulate("alone").head_digest == together.head_digest
    (entry,) = rounds(digits, "together")
    assert entry.bytes_up is not None and entry.bytes_up < 12 * 1.1 * (784 * 16 + 16 + 16 * 10 + 10) + 12 * 200
