"""What the tests of a site share: a small model, a site on disk, a request of the server."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny import experiment_text, make_rows
from torch import Tensor, nn

from fedrelease.client.sampling import Seeded, poisson_batch, seeded_generator
from fedrelease.client.site import Site
from fedrelease.client.training import Job, Seeds
from fedrelease.data.sites import open_site, prepare_sites
from fedrelease.data.tokens import TokenRows
from fedrelease.experiment import Adapter, Experiment, Model, Privacy, Training
from fedrelease.experiment_file import load_experiment
from fedrelease.messages import Request
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier, load_state, trainable_state
from fedrelease.privacy import PrivacyPlan

CLIP = 0.5
NOISE = 0.7
RATE = 0.3
NEGLIGIBLE = 1e-9


def tiny_model(base: Path, *, layers: str = "last:1", targets: str = "attention", own_rank: int = 0) -> TextClassifier:
    adapter = Adapter(rank=2, layers=layers, targets=targets, own_rank=own_rank)
    model = build_classifier(open_base(str(base), cache=base), Model(adapter=adapter), seed=3)
    load_state(model, random_state(model, seed=5))
    return model


def random_state(model: TextClassifier, *, seed: int) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(t.shape, generator=numbers) for name, t in trainable_state(model).items()}


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """In the order of the optimizer: body, then head."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    return [v for n, v in named if not n.startswith("head.")] + [v for n, v in named if n.startswith("head.")]


def make_plan(rows: int, *, clip: float = CLIP, noise: float = NOISE, rate: float = RATE) -> PrivacyPlan:
    return PrivacyPlan(
        unit="example",
        epsilon=8.0,
        delta=1e-5,
        clip=clip,
        accountant="prv",
        sample_rate=rate,
        batch_size=rate * rows,
        steps_per_round=1,
        rounds=1,
        noise_multiplier=noise,
    )


def make_job(
    rows: TokenRows, training: Training, plan: PrivacyPlan | None, *, steps: int, key: str = "k", noise: str = "seeded"
) -> Job:
    seeds = Seeds(key=key, noise=noise)
    return Job(rows=rows, training=training, plan=plan, start=0, steps=steps, total=steps, seeds=seeds)


def drawn_batches(rows: TokenRows, *, steps: int, key: str = "k", rate: float = RATE) -> list[list[int]]:
    source = Seeded(seeded_generator("sampling", key))
    return [poisson_batch(len(rows), sample_rate=rate, source=source).tolist() for _ in range(steps)]


def drawn_noises(
    parameters: list[nn.Parameter], *, steps: int, key: str = "k", deviation: float = CLIP * NOISE
) -> list[list[Tensor]]:
    """What torch draws from the key's generator: step by step, parameter by parameter."""
    generator = seeded_generator("noise", key)
    return [[torch.normal(0.0, deviation, p.shape, generator=generator) for p in parameters] for _ in range(steps)]


def make_experiment(folder: Path, base: Path, *, rounds: int = 2, **privacy: float | str) -> Experiment:
    source = folder / "rows.csv"
    if not source.exists():
        make_rows(source, sites=("a", "b"), rows=40)
    (folder / "experiment.toml").write_text(experiment_text(base, source, rounds=str(rounds)), encoding="utf-8")
    experiment = load_experiment(folder / "experiment.toml")
    return replace(experiment, privacy=replace(Privacy(), **privacy))  # type: ignore[arg-type]  # names of fields


def make_site(folder: Path, base: Path, *, noise: str = "seeded") -> Site:
    digest = open_base(str(base), cache=base).tokenizer_digest
    prepared = prepare_sites(
        make_experiment(folder, base), base_folder=base, tokenizer_digest=digest, cache=folder / "cache"
    )
    return Site(data=open_site(prepared.folder / "a"), home=folder / "home", noise=noise)


def make_request(experiment: Experiment, *, round: int = 1, version: str = "0.0.1") -> Request:
    return Request(experiment=experiment, version=version, round=round, base="b" * 64, directives={})
