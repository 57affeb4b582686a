"""A release as one ordinary torch model: float32, factors merged into the weights they belong to, no class of ours in it.

Example::

    plain = plain_model(release, cache=cache_folder())
    plain.module(input_ids, attention_mask)                  # the logits of the release
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import IGNORED, Batch
from fedrelease.experiment import Adapter, Data, Model
from fedrelease.factors import FIRST, RESIDUAL, SECOND, layers_of
from fedrelease.models.bases import Base, Pooling
from fedrelease.models.classifier import TextClassifier, load_state, pool
from fedrelease.models.continuing import next_logits
from fedrelease.models.encoders import open_whole
from fedrelease.models.images import ImageClassifier
from fedrelease.models.network import Network
from fedrelease.models.per_example import PLAIN, CoreLinear, Head, LearnedVectors
from fedrelease.models.prompts import Prompt, prompted
from fedrelease.models.sequences import SequenceModel, beginning
from fedrelease.models.tasks import Classifier, build_model
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.released_model import own_model, released_model, same_base
from fedrelease.tasks import TASKS
from fedrelease.update import State

__all__ = [
    "Plain",
    "PlainEncoder",
    "PlainImages",
    "PlainLanguage",
    "PlainText",
    "fed",
    "given_to",
    "logits_of",
    "plain_model",
    "reference_logits",
    "truth_of",
]

BATCH = 16
BESIDE = ("bottleneck", "lora-sb", "prefix", "prompt")
"""Kinds of adapter that are no sum of a state's tensors and the base's weights."""


class PlainText(nn.Module):
    """Token ids to logits: the encoder, its pooling, a linear layer; without pooling each token has logits of its own."""

    def __init__(
        self,
        encoder: nn.Module,
        pooling: Pooling | None,
        head: nn.Linear,
        *,
        prompt: Prompt | None = None,
        before: int = 0,
    ) -> None:
        """``head`` already has what text vectors are multiplied by in its weights.

        ``prompt``: vectors before the text. ``before``: how many the encoder itself puts there, and gives vectors for.
        """
        super().__init__()
        self.before = before
        self.prompt = prompt
        self.encoder = encoder
        self.pooling = pooling
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask; or ``[rows, tokens, labels]``.

        ``token_type_ids``: 1 for tokens of a second text, where a row has two and the base tells them apart.
        """
        hidden = self._hidden(input_ids, attention_mask, token_type_ids)
        logits: Tensor = self.head(hidden if self.pooling is None else pool(hidden, attention_mask, self.pooling))
        return logits

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor | None) -> Tensor:
        if self.prompt is not None:
            whole: Tensor = prompted(self.encoder, self.prompt, input_ids, attention_mask).last_hidden_state
            return whole[:, self.prompt.tokens :]
        told = {} if segments is None else {"token_type_ids": segments}
        found: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **told).last_hidden_state
        return found[:, self.before :] if self.before else found


class PlainLanguage(nn.Module):
    """A language model as transformers has it, asked only for what comes after the last token of each row.

    One that has an encoder and a decoder is asked for what comes after the beginning of the row itself.
    """

    def __init__(self, whole: nn.Module) -> None:
        """``whole`` has a body, ``base_model``, and a layer that turns a token's vector into logits."""
        super().__init__()
        self.whole = whole

    @property
    def encoder(self) -> nn.Module:
        """The body."""
        return cast(nn.Module, self.whole.base_model)

    @property
    def prefix(self) -> str:
        """What the body is called in the whole model."""
        return "" if self.encoder is self.whole else f"{self.whole.base_model_prefix}."

    @property
    def writes(self) -> bool:
        """Whether it has an encoder and a decoder."""
        return bool(cast(Any, self.whole).config.is_encoder_decoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the next token, float32 ``[rows, vocabulary]``, of int64 ``[rows, tokens]`` ids and mask."""
        if self.writes:
            return self._begun(input_ids, attention_mask)
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits: Tensor = cast(Any, self.whole).get_output_embeddings()(_last(hidden, attention_mask))
        return logits

    def _begun(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        begun = beginning(input_ids, int(cast(Any, self.whole).config.decoder_start_token_id))
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": begun}
        logits: Tensor = self.whole(**given, use_cache=False).logits[:, -1]
        return logits


class PlainEncoder(nn.Module):
    """An encoder alone, as transformers has it, asked for the mean of each row's vectors: a base for other tasks."""

    def __init__(self, encoder: nn.Module) -> None:
        """``encoder`` gives a vector a token."""
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors, float32 ``[rows, width]``, of int64 ``[rows, tokens]`` ids and mask."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden, attention_mask, Pooling())


def _last(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """``[rows, width]``: the vector of each row's last token."""
    return hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]


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
        inputs=_inputs(model),
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


def _inputs(model: Classifier) -> tuple[str, ...]:
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
    head = _plain_linear(model.head)
    head.weight.mul_(model.scale)
    if data.range is not None:
        head.weight.mul_(data.scale.unit)
        head.bias.mul_(data.scale.unit).add_(data.scale.middle)
    return PlainText(model.encoder, model.pooling, head, prompt=model.prompt).requires_grad_(False)


class PlainImages(nn.Module):
    """Pixels between 0 and 1, a flat row an image, to logits: brought to the base's scale, its layers, a linear layer."""

    def __init__(self, model: ImageClassifier) -> None:
        """Take over the model's parts; it is not used any more."""
        super().__init__()
        self.images = model
        self.images.head = cast(Head, _plain_linear(model.head))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 ``[rows, labels]``."""
        logits: Tensor = self.images(features)
        return logits


def _plain_images(model: Network | ImageClassifier) -> nn.Module:
    return _plain_layers(model) if isinstance(model, Network) else PlainImages(model).requires_grad_(False)


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
        yield places.tolist(), given_to(rows, places, inputs)


def given_to(rows: Rows, places: Tensor, inputs: Sequence[str]) -> dict[str, Tensor]:
    """What a model that takes these ``inputs`` is given of some rows."""
    batch = rows.batch(places)
    if not isinstance(batch, Batch):
        return {"features": batch.features}
    segments = torch.zeros_like(batch.input_ids) if batch.segments is None else batch.segments
    known = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": segments}
    return {name: known[name] for name in inputs}


@torch.no_grad()
def logits_of(module: Callable[..., Tensor], rows: Rows, inputs: Sequence[str]) -> Tensor:
    """Logits, float32 ``[items, labels]``, in the order of the rows: one item a row, or one a word, see :func:`truth_of`."""
    found: dict[int, Tensor] = {}
    for places, given in fed(rows, inputs):
        logits = module(*given.values())
        parts = [own[None] for own in logits] if logits.dim() == 2 else map(_items, logits, _alone(rows, places))
        found.update(zip(places, parts, strict=True))
    return torch.cat([found[place] for place in range(len(rows))])


def _alone(rows: Rows, places: Sequence[int]) -> Iterator[Batch]:
    return (cast(Batch, rows.batch([place])) for place in places)


def _items(logits: Tensor, row: Batch) -> Tensor:
    """Of a row's tokens, ``[columns, labels]``, those with a target, or all where none has one; padding never."""
    own = row.attention_mask[0] == 1 if row.targets is None else row.targets[0] != IGNORED
    return logits[: len(own)][own]


def truth_of(rows: Rows) -> Tensor:
    """What is right for each item of :func:`logits_of`, int64 ``[items]``: a row's label, or its words' tags."""
    batches = [rows.batch([place]) for place in range(len(rows))]
    if not batches or not isinstance(batches[0], Batch) or batches[0].targets is None:
        return torch.as_tensor(rows.labels)
    targets = torch.cat([cast(Tensor, cast(Batch, batch).targets)[0] for batch in batches])
    return targets[targets != IGNORED]


def reference_logits(release: Release, base: Base, rows: Rows) -> Tensor:
    """What the release itself says in float32, its factors beside the weights: what every export is compared with.

    Of ``regression`` that is in halves of the range, as it was trained.
    """
    model = released_model(release, base, precision="float32")
    inputs = _inputs(model)
    if isinstance(model, SequenceModel):
        return logits_of(model.next_logits, rows, inputs)
    if not isinstance(model, TextClassifier):
        return logits_of(model, rows, inputs)
    if model.task == "masked-lm":
        return logits_of(PlainEncoder(model.encoder), rows, inputs)
    answer = _next_logits if model.task == "causal-lm" else _logits
    return logits_of(partial(answer, model), rows, inputs)


def _logits(model: TextClassifier, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
    logits: Tensor = model(ids, mask, None, segments)
    return logits


def _next_logits(model: TextClassifier, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return next_logits(model, _last(model.hidden(input_ids, attention_mask), attention_mask))
