"""What the bare twin needs to repeat a federation: who trained in which round, from which seed.

Example::

    script = script_of(experiment, store=Path("releases"), base=base, prepared=prepared, workers=2)
    script.rounds[0].keys["amazon"]                  # the seed of amazon's batches and noise in round 1

Cohorts come from the releases and seeds from the sites' ledgers, so that the twin decides nothing and computes no digest.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedrelease.client.ledger import Ledger
from fedrelease.data.sites import Prepared
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import from_document, to_document
from fedrelease.manifest import parse_version
from fedrelease.models.bases import Base
from fedrelease.server.store import Store
from fedrelease.simulations.simulate import sites_folder

__all__ = ["Round", "Script", "script_from", "script_of", "script_text"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: its number, the place of its phase, and the seed of each site that trained, in order of name."""

    number: int
    phase: int
    keys: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Script:
    """A private federation to repeat.

    Attributes:
        base, data: folders. base_digest: its beginning names what is kept of the frozen layers.
        initial: the file of the state that the first round starts from.
    """

    experiment: Experiment
    initial: Path
    base: Path
    base_digest: str
    data: Path
    sites: tuple[str, ...]
    workers: int
    rounds: tuple[Round, ...]


def script_of(experiment: Experiment, *, store: Path, base: Base, prepared: Prepared, workers: int) -> Script:
    """The script of a finished federation."""
    keys = {site: _keys(sites_folder(store) / site / "ledger.jsonl") for site in prepared.sites}
    releases = Store.open(store).releases()
    manifests = [release.manifest for release in releases if release.manifest.round]
    rounds = tuple(
        Round(
            number=manifest.round,
            phase=parse_version(manifest.version).minor - 1,
            keys={one.site: keys[one.site][manifest.version] for one in manifest.federation.accepted},
        )
        for manifest in manifests
    )
    return Script(
        experiment=experiment,
        initial=releases[0].path("adapter"),
        base=base.folder,
        base_digest=base.digest,
        data=prepared.folder,
        sites=tuple(prepared.sites),
        workers=workers,
        rounds=rounds,
    )


def _keys(ledger: Path) -> dict[str, str]:
    """The charge of each version's training."""
    return {entry.version: entry.charge for entry in Ledger(ledger).entries() if entry.pool == "train"}


def script_text(script: Script) -> str:
    """JSON of a script."""
    paths = {"base": str(script.base), "data": str(script.data), "initial": str(script.initial)}
    rounds = [asdict(one) for one in script.rounds]
    plain = {"base_digest": script.base_digest, "sites": list(script.sites), "workers": script.workers}
    return json.dumps({**paths, **plain, "rounds": rounds, "experiment": to_document(script.experiment)})


def script_from(text: str) -> Script:
    """The script in ``text``."""
    found = json.loads(text)
    return Script(
        experiment=from_document(found["experiment"]),
        initial=Path(found["initial"]),
        base=Path(found["base"]),
        base_digest=found["base_digest"],
        data=Path(found["data"]),
        sites=tuple(found["sites"]),
        workers=found["workers"],
        rounds=tuple(Round(**one) for one in found["rounds"]),
    )
