"""Bases that are only a description, made on the spot and trained from nothing; and what size of images a vision model takes.

Example::

    describe("mlp:784-64", cache)          # a folder with {"model_type": "mlp", "widths": [784, 64]}
    describe("cnn:1x28x28-16-32", cache)   # images of 28 x 28 grey pixels, 16 and then 32 channels
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrelease.files import canonical_bytes, write_durably

__all__ = ["Described", "ImageShape", "describe", "is_description", "read_description", "read_shape"]

_NUMBER = "[1-9][0-9]{0,5}"
MLP = re.compile(f"mlp:({_NUMBER}(?:-{_NUMBER})*)")
CNN = re.compile(f"cnn:({_NUMBER})x({_NUMBER})x({_NUMBER})-({_NUMBER}(?:-{_NUMBER})*)")
SIZES = {"height", "width"}


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What a base takes.

    Attributes:
        sizes: channels, height, width.
        mean, deviation: one a channel, of pixels between 0 and 1: what is taken off, and then divided by.
    """

    sizes: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __str__(self) -> str:
        """As it is written in an experiment."""
        return "x".join(str(size) for size in self.sizes)


@dataclass(frozen=True, kw_only=True)
class Described:
    """A network without weights: widths of linear layers, or an image's shape and the channels of convolutions."""

    widths: tuple[int, ...] | None = None
    shape: ImageShape | None = None
    channels: tuple[int, ...] = ()


def is_description(ref: str) -> bool:
    """Whether a base is only a description, so that naming it fetches nothing and names no folder."""
    return MLP.fullmatch(ref) is not None or CNN.fullmatch(ref) is not None


def describe(ref: str, cache: Path) -> Path | None:
    """The folder of a base that is only a description; ``None`` where ``ref`` is none."""
    if found := MLP.fullmatch(ref):
        facts: dict[str, Any] = {"model_type": "mlp", "widths": _numbers(found[1])}
    elif found := CNN.fullmatch(ref):
        sizes = [int(found[place]) for place in (1, 2, 3)]
        facts = {"model_type": "cnn", "shape": sizes, "channels": _numbers(found[4])}
    else:
        return None
    folder = cache / "bases" / ref.replace(":", "-")
    if not (folder / "config.json").is_file():
        write_durably(folder / "config.json", canonical_bytes(facts))
    return folder


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split("-")]


def read_description(folder: Path) -> Described | None:
    """What :func:`describe` wrote; ``None`` where the folder holds a model with weights."""
    config = _json(folder / "config.json")
    try:
        if config.get("model_type") == "mlp":
            return Described(widths=tuple(int(width) for width in config["widths"]))
        if config.get("model_type") == "cnn":
            colours, height, width = (int(size) for size in config["shape"])
            shape = ImageShape(sizes=(colours, height, width), mean=(0.5,) * colours, deviation=(0.5,) * colours)
            return Described(shape=shape, channels=tuple(int(number) for number in config["channels"]))
    except (ValueError, KeyError, TypeError):
        return None
    return None


def read_shape(folder: Path) -> ImageShape | None:
    """The images that a model of ``transformers`` takes, as its own files say; ``None`` where it takes none."""
    config, processor = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    if "num_channels" not in config:
        return None
    try:
        colours = int(config["num_channels"])
        height, width = _size(processor.get("crop_size") or processor.get("size") or config.get("image_size") or 224)
        mean, deviation = (
            tuple(float(value) for value in processor.get(key) or [0.5] * colours)
            for key in ("image_mean", "image_std")
        )
    except (ValueError, KeyError, TypeError):
        return None
    return ImageShape(sizes=(colours, height, width), mean=mean, deviation=deviation)


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return (int(value["height"]), int(value["width"])) if set(value) >= SIZES else _size(value["shortest_edge"])
    return (int(value[0]), int(value[1])) if isinstance(value, list) else (int(value), int(value))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
