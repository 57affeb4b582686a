"""A release as one ordinary torch model: float32, factors merged into the weights they belong to, no class of ours in it.

Example::

    plain = plain_model(release, cache=cache_folder())
    plain.module(input_ids, attention_mask)                  # the logits of the release
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.experiment import Adapter, Data, Model
from fedrelease.factors import FIRST, RESIDUAL, SECOND, layers_of
from fedrelease.models.bases import Base
from fedrelease.models.classifier import TextClassifier, load_state
from fedrelease.models.encoders import open_whole
from fedrelease.models.images import ImageClassifier
from fedrelease.models.network import Network
from fedrelease.models.per_example import PLAIN, CoreLinear, Head, LearnedVectors
from fedrelease.models.sequences import SequenceModel
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.exports.plain_modules import PlainEncoder, PlainImages, PlainLanguage, PlainText, plain_linear
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.released_model import own_model, same_base
from fedrelease.tasks import TASKS
from fedrelease.update import State

__all__ = [
    "Plain",
    "inputs_of",
    "plain_model",
]

BESIDE = ("bottleneck", "lora-sb", "prefix", "prompt")
"""Kinds of adapter that are no sum of a state's tensors and the base's weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """A release that needs nothing of fedrelease.

    Attributes:
        module: a :class:`PlainText`, :class:`PlainLanguage` or :class:`PlainEncoder`, or linear layers with rectifiers between.
        inputs: names of what it is given.
        base: of the release.
        task: its name.
        labels: in the order of the logits.
        max_length: tokens after which a text is cut; ``None`` where rows are no texts.
        data: of the experiment; of ``regression`` the module gives numbers of its range, not its halves.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    base: Base
    task: str
    labels: tuple[str, ...]
    max_length: int | None
    data: Data = field(default_factory=Data)

    def in_halves(self, numbers: Tensor) -> Tensor:
        """What the release itself gives where the module gives ``numbers``; of labels their logits, as they are."""
        return numbers if self.data.range is None else (numbers - self.data.scale.middle) / self.data.scale.unit

    @property
    def by_token(self) -> bool:
        """Whether each token has logits of its own."""
        return isinstance(self.module, PlainText) and self.module.pooling is None

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return sum(value.numel() * value.element_size() for value in self.module.parameters())


def plain_model(release: Release, *, cache: Path) -> Plain:
    """The release, merged: ``W + alpha / rank * B A`` for each layer with factors, and the head's scale in its weight.

    What cannot be merged, a bottleneck or vectors before the text, stays beside the weights.

    Raises:
        ModelError: the base here is not the base of the release.
        DamagedRelease: a file of the release changed.

    Source: Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1: merged weights add no work to an answer.
    """
    base, own, task = same_base(release, cache), own_model(release), release.manifest.task
    data = experiment_of(release).data
    if own.task in ("causal-lm", "seq2seq"):
        return _plain_language(release, base, own)
    model = (_beside if own.adapter.kind in BESIDE else _merged)(base, own, release.state())
    return Plain(
        module=_plain_module(model, data).eval(),
        inputs=inputs_of(model),
        base=base,
        task=task.name,
        labels=task.labels,
        max_length=task.max_length if isinstance(model, TextClassifier) else None,
        data=data,
    )


def _merged(base: Base, own: Model, state: State) -> Classifier:
    """Every weight of the base, with what was learned in it."""
    whole = replace(own, precision="float32", adapter=Adapter(kind="full"))
    model = build_model(base, whole, seed=0)  # all of it is overwritten
    if own.adapter.kind == "full":
        load_state(model, state)
    else:
        _put_adapter(model.get_submodule("encoder"), state, own.adapter)
        if own.task != "masked-lm":
            _set_head(model, state)
    return model


def _beside(base: Base, own: Model, state: State) -> Classifier:
    """What was learned beside the base, in layers of torch's; cores are merged."""
    model = build_model(base, replace(own, precision="float32"), seed=0)
    load_state(model, state)
    _merge_cores(model)
    for module in model.modules():
        if type(module) in (Head, LearnedVectors) and module is not model.head:
            cast(Any, module).__class__ = PLAIN[type(module)]
    return model


@torch.no_grad()
def _merge_cores(model: nn.Module) -> None:
    """``W + alpha / rank * B R A``, in float64 until it is added."""
    for name, core in [(name, module) for name, module in model.named_modules() if isinstance(module, CoreLinear)]:
        product = core.scaling * (core.second.double() @ core.lora_R.double() @ core.first.double())
        turned = type(core.base_layer).__name__ == "Conv1D"
        weight = core.base_layer.get_parameter("weight")
        weight.copy_(weight.double() + (product.T if turned else product))
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, core.base_layer)


def _put_adapter(encoder: nn.Module, state: State, adapter: Adapter) -> None:
    if adapter.trains_base:
        _put_own(encoder, state)
    else:
        _add(encoder, state, adapter.scaling)


@torch.no_grad()
def _put_own(encoder: nn.Module, state: State) -> None:
    """Weights of the base that were trained, by the base's own names."""
    for name, tensor in state.items():
        if not name.startswith(("head.", "turn.")):
            encoder.get_parameter(name).copy_(tensor)


def inputs_of(model: Classifier) -> tuple[str, ...]:
    """The names of what a model is given."""
    if not isinstance(model, TextClassifier | SequenceModel):
        return ("features",)
    segmented = isinstance(model, TextClassifier) and model.segmented and model.prompt is None
    pairs = TASKS[model.task].pairs and segmented
    return ("input_ids", "attention_mask", *(["token_type_ids"] if pairs else []))


def _plain_module(model: Classifier, data: Data) -> nn.Module:
    if not isinstance(model, TextClassifier):
        return _plain_images(cast(Network | ImageClassifier, model))
    if model.task == "masked-lm":
        return PlainEncoder(model.encoder).requires_grad_(False)
    return _plain_text(model, data)


@torch.no_grad()
def _add(encoder: nn.Module, state: State, scale: float) -> None:
    """Factors to the weights of the base, in float64 until they are added."""
    for layer in layers_of(state.keys()):
        module = encoder.get_submodule(layer)
        missed = state[layer + RESIDUAL].double() if layer + RESIDUAL in state else 0.0
        product = scale * (state[layer + SECOND].double() @ state[layer + FIRST].double() + missed)
        turned = type(module).__name__ == "Conv1D"  # GPT-2 keeps weights as [in, out]
        weight = module.get_parameter("weight")
        weight.copy_(weight.double() + (product.T if turned else product))


@torch.no_grad()
def _set_head(model: Classifier, state: State) -> None:
    for name in ("weight", "bias"):
        model.head.get_parameter(name).copy_(state[f"head.{name}"])


def _plain_language(release: Release, base: Base, own: Model) -> Plain:
    module, state = PlainLanguage(open_whole(base)).requires_grad_(False), release.state()
    if own.adapter.kind == "full":
        _put(module, state)
    else:
        _put_adapter(module.encoder, state, own.adapter)
    task = release.manifest.task
    return Plain(
        module=module.eval(),
        inputs=("input_ids", "attention_mask"),
        base=base,
        task=task.name,
        labels=task.labels,
        max_length=task.max_length,
    )


@torch.no_grad()
def _put(module: PlainLanguage, state: State) -> None:
    """Every weight, by the body's own names; ``head.weight`` only where words are read and written by two tables."""
    for name, tensor in state.items():
        last = cast(Any, module.whole).get_output_embeddings() if name.startswith("head.") else None
        owner = module.encoder if last is None else last
        owner.get_parameter(name.removeprefix("head.")).copy_(tensor)


@torch.no_grad()
def _plain_text(model: TextClassifier, data: Data) -> nn.Module:
    head = plain_linear(model.head)
    head.weight.mul_(model.scale)
    if data.range is not None:
        head.weight.mul_(data.scale.unit)
        head.bias.mul_(data.scale.unit).add_(data.scale.middle)
    return PlainText(model.encoder, model.pooling, head, prompt=model.prompt).requires_grad_(False)


def _plain_images(model: Network | ImageClassifier) -> nn.Module:
    return _plain_layers(model) if isinstance(model, Network) else PlainImages(model).requires_grad_(False)


def _plain_layers(model: Network) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in model.hidden:
        layers += [plain_linear(layer), nn.ReLU()]
    return nn.Sequential(*layers, plain_linear(model.head)).requires_grad_(False)
