"""A store with one release that answers, made without training: random factors and head on a tiny base.

Example::

    store = make_released(tmp_path, tiny_base)               # 0.1.1, which is stable
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from examples import MANIFEST
from tiny import experiment_text, language_experiment, make_rows

from fedrelease.experiment_file import load_experiment, to_toml
from fedrelease.manifest import AdapterFacts, BaseFacts, FileEntry, TaskFacts
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import trainable_state
from fedrelease.models.tasks import build_model
from fedrelease.server.journal import entry_for
from fedrelease.server.store import Store
from fedrelease.update import state_bytes

TIME = "2031-05-01T12:00:00+00:00"
IMAGES = """
[model]
base = "mlp:12-8"
task = "image-classification"
labels = ["none", "some", "all"]
[model.adapter]
kind = "full"
[data]
source = "digits"
[privacy]
unit = "none"
[[phase]]
name = "main"
rounds = 1
"""


def make_released(folder: Path, base: Path, *settings: str) -> Store:
    """Of texts; ``settings`` are overrides such as ``model.head_scale=3``."""
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=8)
    return _published(folder, experiment_text(base, rows), settings)


def make_released_language(folder: Path, base: Path, *settings: str) -> Store:
    """Of a language model of :func:`tiny.make_language_base`."""
    rows = make_rows(folder / "rows.csv", sites=("a", "b"), rows=8)
    return _published(folder, language_experiment(base, rows), settings)


def make_released_of(folder: Path, text: str, *settings: str) -> Store:
    """Of any experiment, given as TOML."""
    return _published(folder, text, settings)


def make_released_images(folder: Path) -> Store:
    """Of twelve pixels, on a network of eight hidden units."""
    return _published(folder, IMAGES, ())


def random_state(shapes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Large enough that factors change the logits in their first digits."""
    generator = torch.Generator().manual_seed(3)
    return {name: 0.5 * torch.randn(shapes[name].shape, generator=generator) for name in sorted(shapes)}


def _published(folder: Path, text: str, settings: tuple[str, ...]) -> Store:
    experiment = load_experiment(None, settings, text=text)
    base = open_base(experiment.model.base, cache=folder / "cache")
    state = random_state(trainable_state(build_model(base, experiment.model, seed=7)))
    files = {
        "adapter.safetensors": ("adapter", state_bytes(state)),
        "experiment.toml": ("doc", to_toml(experiment).encode()),
    }
    adapter, model = experiment.model.adapter, experiment.model
    store = Store.create_or_open(folder / "releases")
    with store.lock():
        entries = tuple(
            FileEntry(path=path, sha256=store.put_blob(data), size=len(data), role=role)
            for path, (role, data) in files.items()
        )
        manifest = replace(
            MANIFEST,
            name="tiny",
            files=entries,
            base=BaseFacts(ref=model.base, files=dict(base.files)),
            adapter=AdapterFacts(
                kind=adapter.kind,
                rank=adapter.rank,
                alpha=adapter.alpha,
                targets=adapter.targets,
                layers=adapter.layers,
            ),
            task=TaskFacts(
                name=model.task,
                labels=model.labels,
                max_length=experiment.training.max_length,
                tokenizer=base.tokenizer_digest,
            ),
        )
        store.publish(manifest, entry_for(manifest, channels=("stable",), time=TIME, seconds=1.0))
    return store
