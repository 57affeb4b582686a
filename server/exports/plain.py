"""A release as one ordinary torch model: float32, factors merged into the weights they belong to, no class of ours in it.

Example::

    plain = plain_model(release, cache=cache_folder())
    plain.module(input_ids, attention_mask)                  # the logits of the release
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedrelease.data.row_files import Rows
from fedrelease.factors import FIRST, SECOND, layers_of
from fedrelease.models.bases import Base, Pooling
from fedrelease.models.classifier import TextClassifier, load_state, pool
from fedrelease.models.network import Network
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.release import Release
from fedrelease.server.released_model import own_model, released_model, same_base
from fedrelease.update import State

__all__ = ["Plain", "PlainText", "fed", "logits_of", "plain_model", "reference_logits"]

BATCH = 16


class PlainText(nn.Module):
    """Token ids to logits: the encoder, its pooling, a linear layer."""

    def __init__(self, encoder: nn.Module, pooling: Pooling, head: nn.Linear) -> None:
        """``head`` already has what text vectors are multiplied by in its weights."""
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, self.pooling))
        return logits


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """A release that needs nothing of fedrelease.

    Attributes:
        module: a :class:`PlainText`, or linear layers with rectifiers between them.
        inputs: names of what it is given.
        base: of the release.
        labels: in the order of the logits.
        max_length: tokens after which a text is cut; ``None`` where rows are no texts.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    base: Base
    labels: tuple[str, ...]
    max_length: int | None

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return sum(value.numel() * value.element_size() for value in self.module.parameters())


def plain_model(release: Release, *, cache: Path) -> Plain:
    """The release, merged: ``W + alpha / rank * B A`` for each layer with factors, and the head's scale in its weight.

    Raises:
        ModelError: the base here is not the base of the release.
        DamagedRelease: a file of the release changed.

    Source: Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1: merged weights add no work to an answer.
    """
    base, own, task = same_base(release, cache), own_model(release), release.manifest.task
    whole = replace(own.adapter, kind="full", site_ranks={})
    model = build_model(base, replace(own, precision="float32", adapter=whole), seed=0)  # all of it is overwritten
    if own.adapter.kind == "full":
        load_state(model, release.state())
    else:
        _add(model, release.state(), own.adapter.alpha / own.adapter.rank)
    text = isinstance(model, TextClassifier)
    return Plain(
        module=(_plain_text(model) if isinstance(model, TextClassifier) else _plain_layers(model)).eval(),
        inputs=("input_ids", "attention_mask") if text else ("features",),
        base=base,
        labels=task.labels,
        max_length=task.max_length if text else None,
    )


@torch.no_grad()
def _add(model: Classifier, state: State, scale: float) -> None:
    """Factors to the weights of the base, in float64 until they are added; the head as it is."""
    for layer in layers_of(state.keys()):
        module = model.get_submodule(f"encoder.{layer}")
        product = scale * (state[layer + SECOND].double() @ state[layer + FIRST].double())
        turned = type(module).__name__ == "Conv1D"  # GPT-2 keeps weights as [in, out]
        weight = module.get_parameter("weight")
        weight.copy_(weight.double() + (product.T if turned else product))
    for name in ("weight", "bias"):
        model.head.get_parameter(name).copy_(state[f"head.{name}"])


@torch.no_grad()
def _plain_text(model: TextClassifier) -> nn.Module:
    head = _plain_linear(model.head)
    head.weight.mul_(model.scale)
    return PlainText(model.encoder, model.pooling, head).requires_grad_(False)


def _plain_layers(model: Network) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in model.hidden:
        layers += [_plain_linear(layer), nn.ReLU()]
    return nn.Sequential(*layers, _plain_linear(model.head)).requires_grad_(False)


@torch.no_grad()
def _plain_linear(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    plain = nn.Linear(weight.shape[1], weight.shape[0])
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain


def fed(rows: Rows, inputs: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Batches of rows of like length: their places, and what a model is given by name."""
    for places in torch.split(torch.argsort(rows.lengths, stable=True), BATCH):
        given = [value for value in rows.batch(places).inputs if value is not None]
        yield places.tolist(), dict(zip(inputs, given, strict=True))


@torch.no_grad()
def logits_of(module: Callable[..., Tensor], rows: Rows, inputs: Sequence[str]) -> Tensor:
    """Logits, float32 ``[rows, labels]``, in the order of the rows."""
    found: dict[int, Tensor] = {}
    for places, given in fed(rows, inputs):
        found.update(zip(places, module(*given.values()), strict=True))
    return torch.stack([found[place] for place in range(len(rows))])


def reference_logits(release: Release, base: Base, rows: Rows) -> Tensor:
    """What the release itself says in float32, its factors beside the weights: what every export is compared with."""
    model = released_model(release, base, precision="float32")
    inputs = ("input_ids", "attention_mask") if isinstance(model, TextClassifier) else ("features",)
    return logits_of(model, rows, inputs)
