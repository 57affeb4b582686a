"""EfficientNet-lite0: a convolutional network for images of 224 x 224, small enough for a processor, with weights of ImageNet.

Example::

    encoder = open_lite(folder)                                        # a folder that `converted` made
    encoder(pixel_values=torch.zeros(1, 3, 224, 224)).last_hidden_state   # float32 [1, 1280, 7, 7]

Source: Tan and Le (2019), https://arxiv.org/abs/1905.11946, table 1; "lite": without squeeze and excitation, and with ReLU6
(Liu, 2020). transformers' EfficientNet always has both, so that it cannot say this one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.models.efficientnet_lite0 import KIND, STAGES, Stage

__all__ = ["Block", "EfficientNetLite", "SameConv2d", "Seen", "is_lite", "open_lite"]

EPSILON = 1e-3
STEM = 32


@dataclass(frozen=True, kw_only=True)
class Seen:
    """``last_hidden_state``: ``[rows, channels, height, width]``, a vector for each place."""

    last_hidden_state: Tensor


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes below and to the right."""

    def forward(self, input: Tensor) -> Tensor:
        """``[rows, out, ceil(height / stride), ceil(width / stride)]``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = ((-(-size // stride) - 1) * stride + kernel - size for size in input.shape[-2:])
        high, wide = max(high, 0), max(wide, 0)
        return super().forward(functional.pad(input, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def _convolution(before: int, after: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(before, after, kernel, stride=stride, groups=groups, bias=False)


class Block(nn.Module):
    """An inverted bottleneck: expanded by a 1 x 1 convolution, each channel by itself, and projected; added where it fits."""

    def __init__(self, before: int, after: int, *, kernel: int, stride: int, expansion: int) -> None:
        """Channels that come in and that go out."""
        super().__init__()
        wide = before * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and before == after
        if self.expands:
            self.expand_conv, self.bn0 = _convolution(before, wide), nn.BatchNorm2d(wide, eps=EPSILON)
        self.depthwise_conv = _convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self.project_conv, self.bn2 = _convolution(wide, after), nn.BatchNorm2d(after, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, after, height / stride, width / stride]``."""
        inner = functional.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        inner = functional.relu6(self.bn1(self.depthwise_conv(inner)))
        out: Tensor = self.bn2(self.project_conv(inner))
        return x + out if self.adds else out


class EfficientNetLite(nn.Module):
    """From pixels to vectors of places, in the form in which transformers' vision models give them.

    Attributes:
        config: what the base's ``config.json`` says.
    """

    main_input_name = "pixel_values"

    def __init__(self, stages: tuple[Stage, ...] = STAGES, *, width: int = 1280) -> None:
        """Random weights; ``width``: of the vectors."""
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width, num_hidden_layers=sum(stage[0] for stage in stages))
        self.conv_stem, self.bn0 = _convolution(3, STEM, 3, stride=2), nn.BatchNorm2d(STEM, eps=EPSILON)
        self.blocks, before = nn.ModuleList(), STEM
        for count, kernel, stride, expansion, after in stages:
            for place in range(count):
                first = stride if place == 0 else 1
                self.blocks.append(Block(before, after, kernel=kernel, stride=first, expansion=expansion))
                before = after
        self.conv_head, self.bn1 = _convolution(before, width), nn.BatchNorm2d(width, eps=EPSILON)

    def forward(self, pixel_values: Tensor) -> Seen:
        """Of normalised pixels ``[rows, 3, height, width]``; places are 32 times as few each way."""
        x = functional.relu6(self.bn0(self.conv_stem(pixel_values)))
        for block in self.blocks:
            x = block(x)
        return Seen(last_hidden_state=functional.relu6(self.bn1(self.conv_head(x))))


def is_lite(folder: Path) -> bool:
    """Whether a base's folder holds such a network."""
    return _config(folder).get("model_type") == KIND


def open_lite(folder: Path, dtype: torch.dtype = torch.float32) -> EfficientNetLite:
    """The network of a folder with its weights.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError, OSError: the folder's files do not fit; who opens bases says so.
    """
    config = _config(folder)
    stages = tuple((int(a), int(b), int(c), int(d), int(e)) for a, b, c, d, e in config["stages"])
    network = EfficientNetLite(stages, width=int(config["hidden_size"]))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.to(dtype).eval()


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
