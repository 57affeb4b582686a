"""One training step in many variants: ours, and ours with a lever taken away.

Example::

    with stepper(Variant(name="base in float32", precision="float32"), bench) as step:
        step(indices)                        # forward, backward, clipping, noise and the optimizer's step
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.private_step import PrivateOptimizer
from fedrelease.client.sampling import randomness
from fedrelease.data.tokens import Batch, TokenRows
from fedrelease.experiment import Training
from fedrelease.models.classifier import TextClassifier
from fedrelease.models.encoders import ATTENTION
from fedrelease.models.per_example import per_example, plain_layers
from fedrelease.models.precision import matmul
from fedrelease.privacy import PrivacyPlan

__all__ = ["Material", "Variant", "stepper"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training step; every default is ours.

    Attributes:
        precision: of the base; ``None`` for what this machine was found to be quicker with.
        prefix: what the layers below the adapter give is kept, not computed. sort: rows of like length share a micro-batch.
        pad: every row is as long as ``training.max_length``, not as the longest of its micro-batch.
        attention: transformers' name of it. products: torch's precision of float32 products.
        gradients: by example in one backward pass (``ours``), by Opacus' ``hooks``, or none (``plain``: no privacy).
        noise: ``seeded``, or ``secure``: from the operating system, as a deployed site draws it.
    """

    name: str
    precision: str | None = None
    prefix: bool = True
    sort: bool = True
    pad: bool = False
    attention: str = ATTENTION
    products: str = "medium"
    gradients: str = "ours"
    noise: str = "seeded"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What steps are made of: a model for each precision, the site's rows with and without a prefix of that precision."""

    models: Mapping[str, TextClassifier]
    kept: Mapping[str, TokenRows]
    rows: TokenRows
    precision: str
    training: Training
    plan: PrivacyPlan


@contextmanager
def stepper(variant: Variant, material: Material) -> Iterator[Callable[[Tensor], None]]:
    """A function that takes the row numbers of a batch and trains one step on them; each block starts a new optimizer."""
    precision = variant.precision or material.precision
    model = material.models[precision]
    rows = material.kept[precision] if variant.prefix else material.rows
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=material.training.lr)
    model.encoder.set_attn_implementation(variant.attention)  # type: ignore[operator]  # transformers ships no types
    step = _plain_step if variant.gradients == "plain" else _private_step
    chosen = optimizer if variant.gradients == "plain" else _private(optimizer, material.plan, variant.noise)
    try:
        with matmul(variant.products), _gradients(variant, model.train()):
            yield lambda indices: step(variant, material, model, rows, chosen, indices)
    finally:
        model.encoder.set_attn_implementation(ATTENTION)  # type: ignore[operator]


@contextmanager
def _gradients(variant: Variant, model: nn.Module) -> Iterator[None]:
    if variant.gradients != "hooks":
        with per_example(model) if variant.gradients == "ours" else nullcontext():
            yield
        return
    with plain_layers(model), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Full backward hook is firing"
        )  # the first factors' input needs no gradient
        hooks = GradSampleHooks(model, loss_reduction="sum")
        try:
            yield
        finally:
            hooks.cleanup()


def _private(optimizer: torch.optim.Optimizer, plan: PrivacyPlan, noise: str) -> DPOptimizer:
    return PrivateOptimizer(optimizer, plan, randomness(noise, "levers"))


def _private_step(
    variant: Variant, material: Material, model: nn.Module, rows: TokenRows, optimizer: DPOptimizer, indices: Tensor
) -> None:
    pieces = _pieces(variant, material, indices)
    for number, piece in enumerate(pieces, start=1):
        torch.autograd.backward(_loss(variant, material, model, rows, piece))
        with matmul("highest"):
            optimizer.signal_skip_step(do_skip=number < len(pieces))
            optimizer.step()
            optimizer.zero_grad()


def _plain_step(
    variant: Variant,
    material: Material,
    model: nn.Module,
    rows: TokenRows,
    optimizer: torch.optim.Optimizer,
    indices: Tensor,
) -> None:
    optimizer.zero_grad()
    for piece in _pieces(variant, material, indices):
        torch.autograd.backward(_loss(variant, material, model, rows, piece) / len(indices))
    optimizer.step()


def _pieces(variant: Variant, material: Material, indices: Tensor) -> list[Tensor]:
    if variant.sort:
        indices = indices[torch.argsort(material.rows.lengths[indices], stable=True)]
    return list(torch.split(indices, material.training.micro_batch))


def _loss(variant: Variant, material: Material, model: nn.Module, rows: TokenRows, indices: Tensor) -> Tensor:
    batch = rows.batch(indices)
    if variant.pad:
        batch = _padded(batch, material.training.max_length)
    logits = model(batch.input_ids, batch.attention_mask, batch.prefix)
    return functional.cross_entropy(logits, batch.labels, reduction="sum")


def _padded(batch: Batch, width: int) -> Batch:
    more = width - batch.input_ids.shape[1]
    return Batch(
        input_ids=functional.pad(batch.input_ids, (0, more)),
        attention_mask=functional.pad(batch.attention_mask, (0, more)),
        labels=batch.labels,
        prefix=None if batch.prefix is None else functional.pad(batch.prefix, (0, 0, 0, more)),
    )
