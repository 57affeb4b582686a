"""An image classifier: a small convolutional network made on the spot, or a pretrained vision model, and a linear head.

Example::

    model = build_image_model(open_base("cnn:1x28x28-16-32", cache=cache_folder()), experiment.model, seed=7)
    model(torch.zeros(2, 784))                       # float32 [2, labels]
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.errors import ModelError
from fedrelease.experiment import Model
from fedrelease.models.adapters import put_adapter
from fedrelease.models.bases import Base
from fedrelease.models.classifier import draw_factors
from fedrelease.models.described import ImageShape
from fedrelease.models.efficientnet import EfficientNetLite
from fedrelease.models.encoders import open_vision, setting
from fedrelease.models.every_weight import train_used_weights
from fedrelease.models.network import Network, build_network
from fedrelease.models.norms import without_batch_norm
from fedrelease.models.per_example import Head

__all__ = ["ImageClassifier", "build_image_model", "square"]

KERNEL = 3
CHANNELS = 4
"""Normalised together: over places and channels of one image, so that no other image has a say, as private training needs."""


class ImageClassifier(nn.Module):
    """Pixels to logits, through an encoder and one linear layer.

    Attributes:
        shape: of an image: channels, height, width. Rows are flat.
        untrained: whether the encoder has no weights of its own, so that all of them are drawn.
        batch_norm: what became of its BatchNorm, as the experiment says.
        stretches: whether small square images are stretched to ``shape``.
    """

    task = "image-classification"
    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: nn.Module, shape: ImageShape, head: Head, *, untrained: bool) -> None:
        """The head starts from zero, the encoder as it comes."""
        super().__init__()
        self.encoder = encoder
        self.shape = shape
        self.head = head
        self.width = math.prod(shape.sizes)
        self.untrained = untrained
        self.batch_norm = "frozen"
        self.stretches = isinstance(encoder, EfficientNetLite)
        for name, values in (("mean", shape.mean), ("deviation", shape.deviation)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def draw(self, seed: int) -> None:
        """Put what is trained where training starts; what is drawn follows from ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        if self.untrained:
            _draw_layers(self.encoder, generator)
        draw_factors(self, generator)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.zero_()

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's precision."""
        return next(self.encoder.parameters()).dtype

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the encoder is trained, so that an image's vector never changes."""
        return not any(value.requires_grad for value in self.encoder.parameters())

    def forward(self, features: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Logits, float32 ``[rows, labels]``, of pixels between 0 and 1, float32 ``[rows, channels * height * width]``.

        With ``vectors``, float32 ``[rows, width of the head]``, the encoder is not computed: it is what :meth:`seen` gives.

        Raises:
            ModelError: the rows have another width.
        """
        logits: Tensor = self.head(self.seen(features) if vectors is None else vectors)
        return logits

    def seen(self, features: Tensor) -> Tensor:
        """What the head is given, float32 ``[rows, width of the head]``.

        Raises:
            ModelError: the rows have another width.
        """
        pixels = self._pixels(features)
        return self._vectors(((pixels - self.mean) / self.deviation).to(self.dtype)).float()

    def _pixels(self, features: Tensor) -> Tensor:
        """Rows as images of the base's shape. Where it stretches, small square ones become large, and grey ones colours."""
        stretched = square(features.shape[-1]) if self.stretches else None
        if stretched is not None and features.shape[-1] != self.width:
            images = functional.interpolate(features.view(-1, *stretched), self.shape.sizes[1:], mode="bilinear")
            return images.expand(-1, self.shape.sizes[0], -1, -1)
        if features.shape[-1] != self.width:
            raise ModelError(
                "the rows do not fit the base",
                value=f"{features.shape[-1]} numbers a row",
                rule=f"the base takes {self.shape}",
                hint="set [data] pixels to that, or choose a base of the images' size",
            )
        return features.view(-1, *self.shape.sizes)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """``[rows, width]``: the first token's vector of a transformer, the mean over places of other pretrained networks."""
        if self.untrained:
            return cast(Tensor, self.encoder(pixels)).flatten(1)
        hidden: Tensor = self.encoder(pixel_values=pixels).last_hidden_state
        return hidden[:, 0] if hidden.dim() == 3 else hidden.mean((2, 3))


def build_image_model(base: Base, model: Model, *, seed: int) -> Network | ImageClassifier:
    """The model that the base describes or holds, with what is trained where training starts.

    Raises:
        ModelError: the base reads no images, or does not go with the adapter.
    """
    if base.architecture is not None:
        return build_network(base, model, seed=seed)
    if base.shape is None:
        raise ModelError(
            "this base does not see images",
            value=model.base,
            rule="image-classification trains a small network, or a vision model that transformers opens",
            hint='set [model] base = "cnn:1x28x28-16-32" and [model.adapter] kind = "full"',
        )
    built = _small(base, base.shape, model) if base.channels else _pretrained(base, base.shape, model)
    built.draw(seed)
    return built


def _small(base: Base, shape: ImageShape, model: Model) -> ImageClassifier:
    if model.adapter.kind != "full":
        raise ModelError(
            "a network without weights of its own has nothing to adapt",
            value=f"{model.base} with {model.adapter.kind}",
            rule="every weight of it is trained",
            hint='set [model.adapter] kind = "full"',
        )
    channels, side = base.channels, min(shape.sizes[1:])
    if side < 2 ** len(channels):
        raise ModelError(
            "images are too small for so many layers",
            value=model.base,
            rule=f"each layer halves height and width; of {side} pixels at most {side.bit_length() - 1} times",
            hint="name fewer layers",
        )
    places = math.prod(size >> len(channels) for size in shape.sizes[1:])
    head = Head(channels[-1] * places, len(model.labels))
    return ImageClassifier(_blocks(shape.sizes[0], channels), shape, head, untrained=True)


def _blocks(colours: int, channels: tuple[int, ...]) -> nn.Sequential:
    """For each entry a convolution of 3 x 3, normalisation over groups of its channels, a rectifier, and half the size."""
    blocks = nn.Sequential()
    for place, (before, after) in enumerate(zip((colours, *channels), channels, strict=False), start=1):
        blocks.add_module(f"conv{place}", nn.Conv2d(before, after, KERNEL, padding=KERNEL // 2))
        blocks.add_module(f"norm{place}", nn.GroupNorm(after // math.gcd(CHANNELS, after), after))
        blocks.add_module(f"relu{place}", nn.ReLU())
        blocks.add_module(f"half{place}", nn.MaxPool2d(2))
    return blocks


@torch.no_grad()
def _draw_layers(encoder: nn.Module, generator: torch.Generator) -> None:
    """Convolutions as He et al. (2015), https://arxiv.org/abs/1502.01852, section 2.2; normalisation as the identity."""
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(cast(Tensor, layer.bias))
        if isinstance(layer, nn.GroupNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def square(width: int) -> tuple[int, int, int] | None:
    """Channels, height and width of a square image, grey or in colours, that has so many numbers."""
    for colours in (1, 3):
        side = math.isqrt(width // colours)
        if side and colours * side * side == width:
            return colours, side, side
    return None


def _pretrained(base: Base, shape: ImageShape, model: Model) -> ImageClassifier:
    encoder = open_vision(base, model)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    without_batch_norm(encoder, model.batch_norm)
    put_adapter(encoder, model.adapter)
    config: Any = encoder.config
    width = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else setting(encoder, "hidden_size")
    built = ImageClassifier(encoder, shape, Head(width, len(model.labels)), untrained=False)
    built.batch_norm = model.batch_norm
    if model.adapter.trains_base:
        train_used_weights(built, torch.zeros(1, built.width), every=model.adapter.kind == "full")
    return built
