"""Bases: frozen pretrained models, known by the digests of their files.

Example::

    base = open_base("minilm", cache=cache_folder())
    base.files["model.safetensors"]      # sha256 of the weights
    base.pooling                         # Pooling(mode='mean', normalise=True): what the base itself declares
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedrelease.errors import ModelError
from fedrelease.fetch import ALIASES, locate
from fedrelease.files import canonical_bytes, digest_bytes, digest_file
from fedrelease.models.converted import converted
from fedrelease.models.described import ImageShape, describe, read_description, read_shape

__all__ = ["Base", "Pooling", "open_base", "read_pooling"]

WEIGHTS = "*.safetensors"
PARTS = (WEIGHTS, "*.json", "*.txt", "*.model", "*_Pooling/config.json", "chat_template.jinja")
READERS = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model", "preprocessor_config.json")
POOLING_MODES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How token vectors become one text vector: ``mean``, ``first``, ``max`` or ``last``; then to length 1, or not."""

    mode: str = "mean"
    normalise: bool = False


@dataclass(frozen=True)
class Base:
    """A base on disk.

    Attributes:
        ref: what the experiment called it.
        folder: where its files lie.
        files: sha256 of each file that decides what it computes, by path within the folder.
        pooling: what its own ``modules.json`` declares; mean pooling when it declares nothing.
        architecture: widths of the layers of a base that has no weights, such as ``mlp:784-64``; else ``None``.
        shape: of the images that it takes; ``None`` where it takes none.
        channels: of the layers of a base without weights that takes images, such as ``cnn:1x28x28-16-32``.
    """

    ref: str
    folder: Path
    files: Mapping[str, str]
    pooling: Pooling
    architecture: tuple[int, ...] | None = None
    shape: ImageShape | None = None
    channels: tuple[int, ...] = ()

    @property
    def reads_images(self) -> bool:
        """Whether rows are pixels, and not tokens."""
        return self.shape is not None or self.architecture is not None

    @property
    def is_drawn(self) -> bool:
        """Whether it is only a description, so that every weight is drawn from the seed."""
        return self.architecture is not None or bool(self.channels)

    @property
    def pixels(self) -> str:
        """Channels x height x width of an image; of a base that takes any numbers, those of a grey square."""
        side = math.isqrt(self.row_width)
        return str(self.shape) if self.shape is not None else f"1x{side}x{self.row_width // side}"

    @property
    def row_width(self) -> int:
        """Numbers in a row, where rows are no texts."""
        if self.shape is not None:
            return math.prod(self.shape.sizes)
        return self.architecture[0] if self.architecture else 1

    @cached_property
    def digest(self) -> str:
        """One sha256 over all files: two bases with the same digest compute the same."""
        return digest_bytes(canonical_bytes(dict(self.files)))

    @cached_property
    def tokenizer_digest(self) -> str:
        """One sha256 over everything but the weights: decides how texts become tokens."""
        return digest_bytes(canonical_bytes({k: v for k, v in self.files.items() if not k.endswith(".safetensors")}))


def open_base(ref: str, *, cache: Path) -> Base:
    """Find a base by alias, folder or hub id and take the digests of its files; one like ``mlp:784-64`` is made on the spot.

    Raises:
        ModelError: nothing by that name, or the folder holds no safetensors model, or no tokenizer: without its files,
            transformers would make an empty one that knows no word.
    """
    folder = describe(ref, cache) or _find(ref, cache)
    described = read_description(folder)
    if described is not None:
        files = {"config.json": digest_file(folder / "config.json")}
        return Base(ref, folder, files, Pooling(), described.widths, described.shape, described.channels)
    for needed, patterns in (("config.json", ("config.json",)), (WEIGHTS, (WEIGHTS,)), ("tokenizer", READERS)):
        if not any(path for pattern in patterns for path in folder.glob(pattern)):
            raise ModelError(
                f"{folder} is not a base: it has no {needed}",
                value=ref,
                rule="a base is a folder with config.json, a tokenizer and weights in safetensors (never pickle)",
                hint="save it with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)",
            )
    paths = sorted({path for part in PARTS for path in folder.glob(part) if path.is_file()})
    files = {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}
    return Base(ref, folder, files, read_pooling(folder), shape=read_shape(folder))


def _find(ref: str, cache: Path) -> Path:
    if ref in ALIASES:
        folder = locate(ref, cache)
        if folder is None:
            raise ModelError(f"the base {ref} is not in the cache", value=ref, hint=f"fedrelease fetch {ref}")
        return converted(ref, folder, cache)
    if Path(ref).is_dir():
        return Path(ref)
    if ref.startswith((".", "/")):
        rule = f"a base that begins with . or / is a folder; relative paths start at the current one, {Path.cwd()}"
        hint = "make it first, for example with fedrelease export --format hf --merged, or correct the path"
        raise ModelError(f"there is no folder {ref}", value=ref, rule=rule, hint=hint)
    return _from_hub(ref)


def _from_hub(ref: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(ref, allow_patterns=[*PARTS]))
    except Exception as error:  # the hub's client has a dozen error classes, and more each release
        raise ModelError(
            f"no base called {ref}: {type(error).__name__}",
            value=ref,
            rule=f"model.base is one of {', '.join(sorted(ALIASES))}, a folder, or a hub id that can be reached",
            hint="check the spelling, or give a folder",
        ) from error


def read_pooling(folder: Path) -> Pooling:
    """What the base declares in ``modules.json`` (the sentence-transformers layout); mean pooling without one.

    Raises:
        ModelError: it declares a pooling that is not known here, or its declaration cannot be read.
    """
    listing = folder / "modules.json"
    if not listing.exists():
        return Pooling()
    try:
        modules = json.loads(listing.read_text(encoding="utf-8"))
        kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
        if "Pooling" not in kinds:
            return Pooling(normalise="Normalize" in kinds)
        declared = json.loads((folder / kinds["Pooling"] / "config.json").read_text(encoding="utf-8"))
        modes = [key for key, on in declared.items() if key.startswith("pooling_mode_") and on]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{listing} cannot be read: {type(error).__name__}: {error}",
            value=str(folder),
            rule="a list of modules with type and path, as sentence-transformers writes it",
            hint="save the base again, or delete modules.json for mean pooling",
        ) from error
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise ModelError(
            "the base declares a pooling that is not known here",
            value=modes,
            rule=f"exactly one of {', '.join(sorted(POOLING_MODES))}",
            hint="choose another base, or delete modules.json for mean pooling",
        )
    return Pooling(mode=POOLING_MODES[modes[0]], normalise="Normalize" in kinds)
