"""A small real store, as a federation of four sites would leave it: the base and four rounds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from examples import MANIFEST, PRIVACY, RECEIPT, SHA

from fedrelease.files import digest_bytes
from fedrelease.manifest import Accepted, FederationFacts, FileEntry, Manifest, MetricsFacts, PrivacyFacts, Refused
from fedrelease.server.journal import LogEntry, entry_for
from fedrelease.server.store import Store
from fedrelease.update import state_bytes

SITES = ("amazon", "movie", "nyt", "tweets")
START = {"amazon": 0.70, "movie": 0.62, "nyt": 0.66, "tweets": 0.74}
HOSTILE = "not finite \x1b[2J[red]"


def accuracies(round: int) -> dict[str, float]:
    """Rises by 0.03 a round at every site."""
    return {site: round_to(START[site] + 0.03 * round) for site in SITES}


def round_to(value: float) -> float:
    return round(value, 6)


def metrics_of(sites: Mapping[str, float]) -> MetricsFacts:
    worst = min(sites, key=lambda site: sites[site])
    return MetricsFacts(
        mean={"accuracy": round_to(sum(sites.values()) / len(sites)), "macro_f1": 0.7},
        worst={"accuracy": sites[worst]},
        worst_site=worst,
        sites={site: {"accuracy": value, "macro_f1": 0.7, "examples": 200.0} for site, value in sites.items()},
    )


def privacy_of(round: int) -> PrivacyFacts:
    told = replace(RECEIPT, charge=f"round-{round}", epsilon_round=1.0, epsilon_total=1.5 * round)
    return replace(
        PRIVACY, epsilon_round=1.0, epsilon_total=1.5 * round, sites=tuple(replace(told, site=site) for site in SITES)
    )


def federation_of(round: int) -> FederationFacts:
    cohort = SITES if round else ()
    accepted = SITES[:-1] if round == 2 else cohort
    return FederationFacts(
        name="four-sites",
        strategy="fedavg",
        strategy_params={},
        cohort=cohort,
        accepted=tuple(Accepted(site=site, update=SHA, examples=None) for site in accepted),
        refused=(Refused(site="tweets", reason=HOSTILE),) if round == 2 else (),
    )


def manifest_of(round: int, *, told: bool = True, parents: tuple[str, ...] = (), held: bool = False) -> Manifest:
    """The manifest of a round; its one file is a state that :func:`adapter` makes."""
    data = adapter(round)
    return replace(
        MANIFEST,
        version=f"0.1.{round}" if round else "0.0.0",
        verdict="held" if held else "released",
        phase="main" if round else "base",
        round=round,
        parents=parents,
        files=(FileEntry(path="adapter.safetensors", sha256=digest_bytes(data), size=len(data), role="adapter"),),
        task=replace(MANIFEST.task, labels=("negative", "positive")),
        federation=federation_of(round),
        privacy=privacy_of(round) if round else None,
        metrics=metrics_of(accuracies(round)) if told else MetricsFacts(),
    )


def adapter(round: int) -> bytes:
    return state_bytes({"head.weight": torch.arange(6.0).reshape(2, 3) + round})


def make_store(folder: Path, *, rounds: int = 4, told: bool = True) -> Store:
    """The base and ``rounds`` rounds; round 3 is held, and a failed round 4 stands in the log."""
    store = Store.create_or_open(folder)
    with store.lock():
        for round in range(rounds + 1):
            publish(store, round, told=told)
        if rounds:
            failed = LogEntry(
                version=f"0.1.{rounds + 1}",
                digest=None,
                event="round-failed",
                phase="main",
                round=rounds + 1,
                time="2031-05-01T13:00:00+00:00",
                reason="1 of 4 sites answered",
            )
            store.record_failure(failed)
    return store


def publish(store: Store, round: int, *, told: bool) -> None:
    store.put_blob(adapter(round))
    head = store.head()
    manifest = manifest_of(round, told=told, parents=(head.digest,) if head else (), held=round == 3)
    entry = entry_for(
        manifest,
        channels=("stable",) if round else (),
        time=f"2031-05-01T12:0{round}:00+00:00",
        seconds=12.5 if round else None,
        bytes_up=820_000 if round else None,
        bytes_down=1_640_000 if round else None,
    )
    store.publish(manifest, entry)
