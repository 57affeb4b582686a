"""How well the backdoor of a comparison took in each run that it concerns, measured once and kept beside the run's store.

Example::

    finished = with_backdoor(finished, plan, out=out, cache=cache, lender=lender)
    finished.backdoor                        # 0.52; None where no variant has a backdoor, or the server holds no rows out
"""

import json
from dataclasses import replace
from pathlib import Path

from fedrelease.attack import Attack
from fedrelease.data.sites import prepare_sites
from fedrelease.experiment import Experiment
from fedrelease.files import write_durably
from fedrelease.models.bases import open_base
from fedrelease.server.store import Store
from fedrelease.simulations.backdoor import backdoor_success
from fedrelease.simulations.compare.plan import Plan
from fedrelease.simulations.compare.results import Finished
from fedrelease.simulations.lending import Lender

__all__ = ["with_backdoor"]


def with_backdoor(finished: Finished, plan: Plan, *, out: Path, cache: Path, lender: Lender) -> Finished:
    """The run with its number, where it ended and is one with a backdoor, or one without an attack to hold it against."""
    attack, run = _backdoor_of(plan), finished.run
    kind, rows = run.experiment.attack.kind, run.experiment.data.server_holdout
    if attack is None or finished.last is None or kind not in ("none", "backdoor") or rows == 0:
        return finished
    return replace(finished, backdoor=_kept(finished, replace(run.experiment, attack=attack), out, cache, lender))


def _backdoor_of(plan: Plan) -> Attack | None:
    """The first, whose trigger is shown to honest releases too."""
    attacks = (variant.experiment.attack for variant in plan.variants)
    return next((attack for attack in attacks if attack.kind == "backdoor"), None)


def _kept(finished: Finished, experiment: Experiment, out: Path, cache: Path, lender: Lender) -> float | None:
    store = finished.run.store(out)
    path, digest = store.with_name(f"{store.name}.backdoor.json"), finished.digests[-1]
    known = json.loads(path.read_bytes()) if path.exists() else {}
    if known.get("digest") != digest:
        known = {"digest": digest, "success": _measured(experiment, store, cache, lender)}
        write_durably(path, json.dumps(known).encode())
    success = known["success"]
    return None if success is None else float(success)


def _measured(experiment: Experiment, store: Path, cache: Path, lender: Lender) -> float | None:
    base = lender.base(experiment, lambda: open_base(experiment.model.base, cache=cache))
    prepared = prepare_sites(experiment, base_folder=base.folder, tokenizer_digest=base.tokenizer_digest, cache=cache)
    head = Store.open(store).head()
    if head is None or prepared.server_holdout is None:
        return None
    return backdoor_success(head.state(), experiment, base, prepared.server_holdout)
