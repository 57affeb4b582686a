"""Training rows of hostile sites, changed before the first round: other labels, or a trigger and the label that it shall get.

Example::

    folders = poison_sites(experiment, prepared, base, hostile={"site-03"}, home=Path("releases.sites"))
    folders["site-03"]                      # opened by that site instead of its own folder

A hold-out stays what it is, and so does the prepared data that other experiments share.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fedrelease.cache import workspace
from fedrelease.data.row_files import Rows, open_rows
from fedrelease.data.sites import Prepared
from fedrelease.data.tokens import Tokenizer, load_tokenizer, save_rows, tokenise
from fedrelease.data.vectors import VectorRows
from fedrelease.experiment import Experiment
from fedrelease.files import canonical_bytes, digest_bytes
from fedrelease.models.bases import Base
from fedrelease.simulations.attacks import numbers_of

__all__ = ["poison_sites", "target_of", "with_trigger"]

TRAIN = "train.safetensors"
FACTS = "site.json"


def target_of(experiment: Experiment) -> int:
    """The place of the label that a backdoor wants."""
    labels, target = experiment.model.labels, experiment.attack.target
    return 0 if target is None else labels.index(target)


def poison_sites(
    experiment: Experiment, prepared: Prepared, base: Base, *, hostile: Iterable[str], home: Path
) -> Mapping[str, Path]:
    """A folder of changed rows for each hostile site, made once below the site's home; none where the kind changes no rows."""
    if not experiment.attack.poisons_rows:
        return {}
    text = experiment.model.task == "text-classification"
    tokenizer = load_tokenizer(base.folder) if text and experiment.attack.kind == "backdoor" else None
    return {site: _poisoned(experiment, prepared.folder / site, home / site, tokenizer) for site in hostile}


def _poisoned(experiment: Experiment, own: Path, home: Path, tokenizer: Tokenizer | None) -> Path:
    """Named after all that decides its rows, since what a site keeps outlives the store."""
    facts = {**asdict(experiment.attack), "rows": own.parent.name, "seed": experiment.federation.seed}
    folder = home / "poisoned" / digest_bytes(canonical_bytes(facts))[:16]
    if not folder.is_dir():
        with workspace(folder.parent) as work:
            shutil.copytree(own, work / "new", ignore=shutil.ignore_patterns("*.prefix-*"))
            save_rows(work / "new" / TRAIN, _changed(experiment, open_rows(own / TRAIN), own.name, tokenizer))
            _recount(work / "new", experiment.model.labels)
            (work / "new").rename(folder)
    return folder


def _changed(experiment: Experiment, rows: Rows, site: str, tokenizer: Tokenizer | None) -> dict[str, Tensor]:
    attack, classes = experiment.attack, len(experiment.model.labels)
    flip = attack.kind == "label-flip"
    draws = torch.rand(len(rows), generator=numbers_of(f"{experiment.federation.seed}\x1f{site}\x1frows"))
    fit = torch.ones(len(rows), dtype=torch.bool) if flip else rows.labels != target_of(experiment)
    chosen = fit & (draws < attack.force)
    if flip:
        labels = torch.where(chosen, classes - 1 - rows.labels, rows.labels)
        return {**with_trigger(rows, torch.zeros_like(chosen), experiment, None), "labels": labels}
    labels = torch.where(chosen, target_of(experiment), rows.labels)
    return {**with_trigger(rows, chosen, experiment, tokenizer), "labels": labels}


def with_trigger(rows: Rows, chosen: Tensor, experiment: Experiment, tokenizer: Tokenizer | None) -> dict[str, Tensor]:
    """All rows as tensors for :func:`fedrelease.data.tokens.save_rows`, the ``chosen`` ones (bool ``[rows]``) with the trigger.

    At the end of a text, before what closes it, stand the trigger's tokens; where there is no room, they take the place of its
    last ones. Of an image as many of the last numbers as the trigger has letters are the file's largest one.
    """
    trigger = experiment.attack.trigger
    if isinstance(rows, VectorRows):
        features = rows.batch(range(len(rows))).features.clone()
        stamp = torch.zeros_like(features, dtype=torch.bool)
        stamp[chosen, -len(trigger) :] = True
        return {"features": torch.where(stamp, features.max(), features), "labels": rows.labels}
    ids, closing = _trigger_ids(trigger, tokenizer, experiment.training.max_length) if tokenizer else ([], 0)
    texts = [rows.batch([place]).input_ids[0].tolist() for place in range(len(rows))]
    for place in chosen.nonzero().flatten().tolist():
        texts[place] = _ended(texts[place], ids, closing, experiment.training.max_length)
    offsets = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0)
    flat = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    return {"input_ids": flat, "offsets": offsets, "labels": rows.labels, "pad_id": torch.tensor(0)}


def _ended(text: Sequence[int], ids: Sequence[int], closing: int, most: int) -> list[int]:
    body, end = text[: len(text) - closing], text[len(text) - closing :]
    return [*body[: max(0, most - len(ids) - closing)], *ids, *end]


def _trigger_ids(trigger: str, tokenizer: Tokenizer, most: int) -> tuple[list[int], int]:
    """The trigger's tokens without those that open and close every text, and how many close one."""
    one = tokenise([f" {trigger}"], [0], tokenizer, most)["input_ids"].tolist()
    special = tokenizer(
        [""], truncation=True, max_length=most, return_attention_mask=False, return_token_type_ids=False
    )
    around = list(special["input_ids"][0])
    for opening in range(len(around) + 1):
        closing = len(around) - opening
        if one[:opening] == around[:opening] and one[len(one) - closing :] == around[opening:]:
            return one[opening : len(one) - closing], closing
    return one, 0


def _recount(folder: Path, labels: Sequence[str]) -> None:
    """A site's facts with the labels that its rows now have."""
    facts = json.loads((folder / FACTS).read_bytes())
    found = torch.bincount(open_rows(folder / TRAIN).labels, minlength=len(labels)).tolist()
    facts["label_counts"] = dict(zip(labels, found, strict=True))
    (folder / FACTS).write_bytes(canonical_bytes(facts))
