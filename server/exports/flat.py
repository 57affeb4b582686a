"""One safetensors file with every weight, factors merged in, and a small JSON that says what the numbers mean.

Example::

    write_flat(plain, folder)                                # model.safetensors, labels.json, and the tokenizer of a text base
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from fedrelease.files import Json
from fedrelease.models.bottleneck import Bottleneck
from fedrelease.server.exports.hugging_face import copy_tokenizer
from fedrelease.server.exports.plain import Plain
from fedrelease.server.exports.plain_modules import PlainText

__all__ = ["open_flat", "write_flat", "write_labels"]

WEIGHTS = "model.safetensors"


def write_flat(plain: Plain, folder: Path) -> None:
    """All weights, float32, by the names that torch gives them: ``encoder.<its own name>``, ``head.weight`` ...."""
    tensors = {name: value.detach().contiguous().clone() for name, value in sorted(plain.module.state_dict().items())}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_labels(plain, folder)


def write_labels(plain: Plain, folder: Path) -> None:
    """``labels.json``, and for texts the tokenizer and the base's ``config.json``."""
    (folder / "labels.json").write_text(json.dumps(_meaning(plain), indent=2) + "\n", encoding="utf-8")
    if isinstance(plain.module, PlainText):
        copy_tokenizer(plain.base, folder)
        (folder / "config.json").write_bytes((plain.base.folder / "config.json").read_bytes())


def _meaning(plain: Plain) -> Mapping[str, Json]:
    facts: dict[str, Json] = {"labels": list(plain.labels), "inputs": list(plain.inputs)}
    if plain.data.range is not None:
        facts = {"inputs": list(plain.inputs), "range": list(plain.data.range), "task": plain.task}
    if plain.by_token:
        facts |= {"max_length": plain.max_length, "pooling": None, "task": plain.task}
        return {**facts, **_learned(plain.module)}
    if isinstance(plain.module, PlainText):
        pooling = plain.base.pooling
        facts |= {"max_length": plain.max_length, "pooling": pooling.mode, "normalise": pooling.normalise}
        return {**facts, **_learned(plain.module)}
    if plain.base.shape is not None:
        shape = plain.base.shape
        pixels: dict[str, Json] = {"mean": list(shape.mean), "deviation": list(shape.deviation)}
        return {**facts, "pixels": list(shape.sizes), **pixels, "channels": list(plain.base.channels)}
    return {**facts, "layers": "linear, with rectifiers between them", "widths": list(plain.base.architecture or ())}


def _learned(module: nn.Module) -> Mapping[str, Json]:
    """What the base's own class does not do: the names of its tensors say where it goes."""
    found: dict[str, Json] = {}
    if isinstance(module, PlainText) and module.prompt is not None:
        found["vectors_before_the_text"] = {"tokens": module.prompt.tokens, "at_each_layer": module.prompt.deep}
    if any(isinstance(part, Bottleneck) for part in module.modules()):
        found["after_layers_with_a_bottleneck"] = "h + up(relu(down(h)))"
    return found


def open_flat(plain: Plain, folder: Path) -> nn.Module:
    """A copy of the module with the weights of the file; to compare it with the release."""
    module = deepcopy(plain.module)
    module.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return module
