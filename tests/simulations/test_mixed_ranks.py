"""A whole federation whose sites have ranks of their own, with real processes."""

from pathlib import Path

import pytest
from federations import Federation, write_federation

from fedrelease.errors import ExperimentError
from fedrelease.server.events import Event, SiteAnswered
from fedrelease.server.journal import LogEntry
from fedrelease.server.store import Store
from fedrelease.server.verify import verify

PHASE = 'strategy = "flexlora"'
RANKS = "model.adapter.site_ranks={ a = 1 }"
BYTES = 4
WIDTH = 32
FACTORS = 2 * 2
"""An A and a B for each of query and value."""


class Stopped(Exception):
    """Stands in for a crash."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Federation:
    return write_federation(tmp_path_factory.mktemp("ranks"), tiny_base, phase=PHASE, privacy='unit = "none"')


def entries(federation: Federation, store: str) -> dict[str, LogEntry]:
    return {entry.version: entry for entry in Store.open(federation.folder / store).history()}


@pytest.mark.slow
def test_sites_of_several_ranks_make_releases_and_send_less(federation: Federation) -> None:
    mixed, whole = federation.simulate("mixed", RANKS), federation.simulate("whole")
    assert mixed.head == whole.head == "0.1.2" and mixed.head_digest != whole.head_digest
    assert verify(Store.open(federation.folder / "mixed")).ok
    ranks = {name: value.shape for name, value in Store.open(federation.folder / "mixed").find("0.1.2").state().items()}
    assert {shape[0] for name, shape in ranks.items() if name.endswith("lora_A")} == {2}
    sent, full = entries(federation, "mixed"), entries(federation, "whole")
    for version in ("0.1.1", "0.1.2"):
        saved = (full[version].bytes_up or 0) - (sent[version].bytes_up or 0)
        assert abs(saved - FACTORS * WIDTH * BYTES) <= 16, "one rank less of four factors; the header may be padded"
        assert sent[version].bytes_down == full[version].bytes_down


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_digest(federation: Federation) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, SiteAnswered) and (event.version, event.step) == ("0.1.2", "train"):
            raise Stopped

    with pytest.raises(Stopped):
        federation.simulate("stopped", RANKS, watch=stop)
    assert federation.simulate("stopped", RANKS).resumed
    undisturbed = federation.simulate("undisturbed", RANKS, workers=2)
    assert federation.digest("stopped") == undisturbed.head_digest


def test_a_strategy_that_cannot_mix_ranks_is_refused_before_anything_is_made(federation: Federation) -> None:
    with pytest.raises(ExperimentError, match="fedavg needs every site to have the same rank"):
        federation.simulate("refused", RANKS, "phase.0.strategy=fedavg")
    assert not (federation.folder / "refused").exists()


def test_a_site_that_nobody_knows_is_refused(federation: Federation) -> None:
    with pytest.raises(ExperimentError, match="site_ranks names sites that are not there.*amazom"):
        federation.simulate("unknown", "model.adapter.site_ranks={ amazom = 1 }")
