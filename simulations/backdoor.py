"""How well a backdoor took: how many rows of the server's hold-out get the wanted label once the trigger stands in them.

Example::

    backdoor_success(release.state(), experiment, base, prepared.server_holdout)        # 0.93 of the rows of other labels
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fedrelease.data.row_files import open_rows
from fedrelease.data.tokens import load_tokenizer, save_rows
from fedrelease.experiment import Experiment
from fedrelease.models.bases import Base
from fedrelease.models.classifier import load_state
from fedrelease.models.evaluation import predict_logits
from fedrelease.models.tasks import build_model
from fedrelease.simulations.poisoned_rows import target_of, with_trigger
from fedrelease.update import State

__all__ = ["backdoor_success"]


def backdoor_success(state: State, experiment: Experiment, base: Base, holdout: Path) -> float:
    """The share of the rows in ``holdout`` that are not of the target's label and are taken for it with the trigger in them.

    The trigger and the target are ``experiment.attack``'s, whatever its kind: with an honest federation it is the share of rows
    that the trigger alone leads astray. 0 where all rows are of the target's label.
    """
    model, target = build_model(base, experiment.model, seed=experiment.federation.seed), target_of(experiment)
    load_state(model, state)
    rows = open_rows(holdout)
    tokenizer = load_tokenizer(base.folder) if experiment.model.task == "text-classification" else None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "triggered.safetensors"
        save_rows(path, with_trigger(rows, torch.ones(len(rows), dtype=torch.bool), experiment, tokenizer))
        predicted = predict_logits(model, open_rows(path)).argmax(1)
    others = rows.labels != target
    return float((predicted[others] == target).double().mean()) if bool(others.any()) else 0.0
