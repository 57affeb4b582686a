"""A text model: base, adapter, text vector or token vectors, linear head. Trained are adapter and head, or every weight.

Example::

    model = build_classifier(base, experiment.model, seed=7)
    state = trainable_state(model)            # {'encoder.layer.5.attention.self.query.lora_A': ..., 'head.weight': ...}
    logits = model(batch.input_ids, batch.attention_mask)      # float32 [rows, labels]
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.factors import CORE, FIRST, OWN_FIRST, OWN_SECOND, SECOND
from fedrelease.models.adapters import put_adapter
from fedrelease.models.bases import Base, Pooling
from fedrelease.models.bottleneck import Bottleneck
from fedrelease.models.encoders import open_encoder, setting
from fedrelease.models.every_weight import train_used_weights, words
from fedrelease.models.layers import layer_list
from fedrelease.models.per_example import Head, LoraLinear
from fedrelease.models.prompts import Prompt, make_prompt, prompted
from fedrelease.models.vocabulary import PlainVocabularyHead, VocabularyHead, told, told_at

__all__ = [
    "TextClassifier",
    "adapted",
    "build_classifier",
    "canonical_name",
    "draw_factors",
    "load_state",
    "pool",
    "trainable_state",
]


class TextClassifier(nn.Module):
    """Token ids to logits, through the base, its pooling and one linear layer; without pooling each token has logits of its own.

    Attributes:
        task: the name of what it is for.
        head: trained from zero; or a frozen one, such as the base's own, which says what token comes next.
        prompt: learned vectors before the text, where the adapter has some.
        turn: what a token's vector goes through before a frozen head, where there is such; a ``Head`` is trained from identity.
    """

    task = "text-classification"

    def __init__(
        self,
        encoder: nn.Module,
        pooling: Pooling | None,
        width: int,
        head: nn.Linear,
        *,
        scale: float = 1.0,
        prompt: Prompt | None = None,
        turn: nn.Module | None = None,
    ) -> None:
        """A head that is trained starts from zero: every label is equally likely."""
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.width = width
        self.scale = scale
        self.head = head
        self.prompt = prompt
        self.turn = turn
        self._zero_head()

    @torch.no_grad()
    def _zero_head(self) -> None:
        for parameter in self.head.parameters() if isinstance(self.head, Head) else ():
            parameter.zero_()
        if isinstance(self.turn, Head):
            nn.init.eye_(self.turn.weight)
            self.turn.bias.zero_()

    def draw(self, seed: int) -> None:
        """Put what is trained where training starts: factors that follow from ``seed`` alone, and a zero head."""
        draw_factors(self, torch.Generator().manual_seed(seed))
        self._zero_head()

    @property
    def layers(self) -> nn.ModuleList:
        """The base's layers, lowest first; none when it does not keep them in one list."""
        return layer_list(self.encoder)

    @property
    def segmented(self) -> bool:
        """Whether the base was trained to tell the tokens of two texts apart; without it the tokens between them have to do."""
        return int(getattr(self.encoder.config, "type_vocab_size", 0) or 0) > 1

    @property
    def dtype(self) -> torch.dtype:
        """The base's precision."""
        return next(self.encoder.parameters()).dtype

    @property
    def frozen_layers(self) -> int:
        """How many layers lie below all that is trained: what they give for a text never changes."""
        inside = {id(value) for layer in self.layers for value in layer.parameters()}
        trained = [any(value.requires_grad for value in layer.parameters()) for layer in self.layers]
        before = any(value.requires_grad and id(value) not in inside for value in self.encoder.parameters())
        if before or self.prompt is not None:  # tables of words, or what every layer sees
            return 0
        return trained.index(True) if True in trained else len(trained)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Tensor | None = None,
        segments: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of int64 ``[rows, tokens]`` ids and mask (1 = token, 0 = padding).

        Without pooling ``[rows, tokens, labels]``. Of a language model what :func:`fedrelease.models.vocabulary.told` says, or
        with targets :func:`fedrelease.models.vocabulary.told_at`.

        With ``prefix``, ``[rows, tokens, width]`` in the base's precision, the frozen layers are not computed: it is what they
        would give. ``segments``, int64 ``[rows, tokens]``, tell two texts apart.
        """
        vectors = self.vectors(input_ids, attention_mask, prefix, segments) * self.scale
        if isinstance(self.head, VocabularyHead | PlainVocabularyHead):
            if targets is not None:
                return told_at(self.head, self.turned(vectors), targets)
            return told(self.head, vectors, input_ids, attention_mask)
        logits: Tensor = self.head(vectors)
        return logits

    def turned(self, vectors: Tensor) -> Tensor:
        """What a frozen head is given, float32 ``[rows, tokens, width]``."""
        return vectors if self.turn is None else self.turn(vectors)

    def vectors(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """What the head is given, float32 ``[rows, width]``, or ``[rows, tokens, width]`` without pooling."""
        hidden = self.hidden(input_ids, attention_mask, prefix, segments).float()
        return hidden if self.pooling is None else pool(hidden, attention_mask, self.pooling)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """What the base gives for each token, ``[rows, tokens, width]``, in its precision."""
        if self.prompt is not None:
            whole: Tensor = prompted(self.encoder, self.prompt, input_ids, attention_mask).last_hidden_state
            return whole[:, self.prompt.tokens :]
        told = {"token_type_ids": segments} if segments is not None and self.segmented else {}
        with self._given(prefix):
            found: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **told).last_hidden_state
        return found

    @contextmanager
    def _given(self, prefix: Tensor | None) -> Iterator[None]:
        layers, cut = self.layers, self.frozen_layers if prefix is not None else 0
        own = [layers[place] for place in range(cut)]
        try:
            for place in range(cut):
                layers[place] = _Given(prefix if place == cut - 1 else None)
            yield
        finally:
            for place, layer in enumerate(own):
                layers[place] = layer


class _Given(nn.Module):
    """Stands in for a frozen layer: hands on what comes in, or what was computed before."""

    def __init__(self, hidden: Tensor | None) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """The hidden states for the next layer."""
        return hidden_states if self._hidden is None else self._hidden


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Text vectors ``[rows, width]`` of token vectors ``[rows, tokens, width]``; padding never counts."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling.mode == "mean":
        vector = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    elif pooling.mode == "max":
        vector = hidden.masked_fill(mask == 0, -torch.inf).amax(1)
    elif pooling.mode == "last":
        vector = hidden[torch.arange(hidden.shape[0]), attention_mask.sum(1) - 1]
    else:
        vector = hidden[:, 0]
    return functional.normalize(vector, dim=-1) if pooling.normalise else vector


def build_classifier(
    base: Base, model: Model, *, seed: int, pooled: bool = True, outputs: int | None = None
) -> TextClassifier:
    """Load the base, switch its dropout off, and put a head on it; freeze it and put an adapter on it, or train all of it.

    The head reads the text's vector, or without ``pooled`` each token's; it has so many ``outputs``, or one a label.

    LoRA starts as the paper says (A random, B zero), A drawn from ``seed`` alone, so that every site and every run of an
    experiment starts from the same state. Dropout is off because private and repeatable training want none.

    Raises:
        ModelError: the base does not load, has no token vectors, or lacks the layers or modules that the adapter names; or every
            weight is to be trained in bfloat16.
    """
    encoder = open_encoder(base, model)
    width = setting(encoder, "hidden_size")
    head = Head(width, outputs or len(model.labels))
    return adapted(encoder, base.pooling if pooled else None, head, model, seed=seed)


def adapted(
    encoder: nn.Module,
    pooling: Pooling | None,
    head: nn.Linear,
    model: Model,
    *,
    seed: int,
    turn: nn.Module | None = None,
) -> TextClassifier:
    """An encoder with the experiment's adapter, as training starts from it."""
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    put_adapter(encoder, model.adapter)
    width, prompt = setting(encoder, "hidden_size"), make_prompt(encoder, model.adapter)
    classifier = TextClassifier(encoder, pooling, width, head, scale=model.head_scale, prompt=prompt, turn=turn)
    if model.adapter.trains_base:
        train_used_weights(classifier, *words(targets=turn is not None), every=model.adapter.kind == "full")
    classifier.draw(seed)
    return classifier


def draw_factors(classifier: nn.Module, generator: torch.Generator) -> None:
    """Factors as LoRA starts: A drawn, in the order of the names, B zero; cores and residuals zero. Then what else is drawn.

    A site's own pairs come after all shared ones, which are the same with them and without.
    """
    for name, parameter in sorted(_stated(classifier).items(), key=_shared_first):
        if name.endswith((FIRST, OWN_FIRST)):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
        elif name.endswith((SECOND, OWN_SECOND, CORE)) or not parameter.requires_grad:
            nn.init.zeros_(parameter)
    for _, module in sorted(classifier.named_modules(), key=itemgetter(0)):
        if isinstance(module, Bottleneck | Prompt):
            module.draw(generator)


def _shared_first(named: tuple[str, nn.Parameter]) -> tuple[bool, str]:
    return named[0].endswith((OWN_FIRST, OWN_SECOND)), named[0]


def canonical_name(name: str) -> str:
    """Our name of a parameter: PEFT's wrapping and adapter names are cut out, so that its versions may change them."""
    return name.removeprefix("encoder.").replace(".default.weight", "").replace("base_layer.", "")


def _stated(classifier: nn.Module) -> dict[str, nn.Parameter]:
    """What a state holds: all that is trained, and the residuals, which never are."""
    residuals = {id(layer.residual) for layer in classifier.modules() if isinstance(layer, LoraLinear)}
    return {
        canonical_name(name): value
        for name, value in classifier.named_parameters()
        if value.requires_grad or id(value) in residuals
    }


def trainable_state(classifier: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state: adapter, its residuals and head, float32, by canonical name, names sorted."""
    return {name: value.detach().clone() for name, value in sorted(_stated(classifier).items())}


def load_state(classifier: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state into the model, in place.

    Raises:
        ModelError: names or shapes differ from the model's own; nothing was changed.
    """
    own = _stated(classifier)
    if set(own) != set(state):
        raise ModelError(
            "the state is of another adapter",
            value=sorted(set(own) ^ set(state))[:4],
            rule="same names",
            hint="build the model of the round that the state is of: a phase may have an adapter of its own",
        )
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            raise ModelError(
                f"{name} has another shape", value=tuple(state[name].shape), rule=f"{tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
