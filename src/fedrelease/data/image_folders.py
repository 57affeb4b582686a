"""A user's own images: a folder with a folder for each label, and for each site around those if there are sites.

Example::

    photos/cat/one.png, photos/dog/two.jpg                        # labels
    photos/north/cat/one.png, photos/south/dog/two.jpg            # sites, and labels in them: the column "site"

    images, columns = read_image_folder(Path("photos"), ("cat", "dog"), "3x64x64")
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from fedrelease.data.images import Images
from fedrelease.errors import DataError

__all__ = ["guessed_labels", "guessed_pixels", "is_image_folder", "read_image", "read_image_folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_BYTES = 4 << 30
"""All images of a source are held as float32 while they are dealt out to sites."""
MODES = {1: "L", 3: "RGB"}
GREY = {"1", "L", "I;16"}
LARGEST_GUESS = 64
"""Pixels a side: larger images are proposed to be brought to that."""
LOOKED_AT = 50
RULE = "images lie in photos/LABEL/ or in photos/SITE/LABEL/"


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds images, at most two folders down."""
    return path.is_dir() and next(_files(path), None) is not None


def _files(path: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*", "*/*/*"):
        yield from sorted(found for found in path.glob(pattern) if _is_image(found, path))


def _is_image(found: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
    return not hidden and found.suffix.lower() in SUFFIXES and found.is_file()


def guessed_labels(path: Path) -> tuple[str, ...]:
    """The names of the folders that images lie in."""
    return tuple(sorted({file.parent.name for file in _files(path)}))


def guessed_pixels(path: Path) -> str:
    """Channels x height x width of the first images that open: theirs where all are alike and small, else 64 x 64."""
    from PIL import Image

    modes, sizes = set(), set()
    for file in islice(_files(path), LOOKED_AT):
        with suppress(OSError, Image.DecompressionBombError), Image.open(file) as opened:
            modes.add(opened.mode)
            sizes.add(opened.size)
    width, height = sizes.pop() if len(sizes) == 1 else (LARGEST_GUESS, LARGEST_GUESS)
    small = max(width, height) <= LARGEST_GUESS
    return f"{1 if modes <= GREY else 3}x{height if small else LARGEST_GUESS}x{width if small else LARGEST_GUESS}"


def read_image_folder(path: Path, labels: Sequence[str], pixels: str) -> tuple[Images, Mapping[str, Sequence[str]]]:
    """All images of a folder, brought to one size, and the column ``site`` where there are sites.

    Args:
        labels: of the experiment: the folders' names.
        pixels: channels x height x width, such as ``3x64x64``. Grey images get three equal channels, colours become grey.

    Raises:
        DataError: an image does not open, lies elsewhere, or has a label that the experiment lacks; the text names the file.
    """
    files = list(_files(path))
    sizes = tuple(int(size) for size in pixels.split("x"))
    bytes_in_all = 4 * len(files) * sizes[0] * sizes[1] * sizes[2]
    if bytes_in_all > MOST_BYTES:
        rule = f"at most {MOST_BYTES >> 30} GB as {pixels}"
        hint = "set [data] pixels to a smaller size, or split the folder"
        raise DataError(f"{path} holds too many images", value=f"{bytes_in_all / 2**30:.1f} GB", rule=rule, hint=hint)
    depths = {len(file.relative_to(path).parts) for file in files}
    if depths not in ({2}, {3}):
        wrong = min(files, key=lambda file: len(file.relative_to(path).parts))
        hint = "put each image into a folder that is named as its label"
        raise DataError(f"{wrong} lies where no label is", value=str(path), rule=RULE, hint=hint)
    places = torch.tensor([_label(file, labels) for file in files])
    features = torch.stack([read_image(file, pixels) for file in files])
    columns = {"site": [file.parent.parent.name for file in files]} if depths == {3} else {}
    return (features, places), columns


def _label(file: Path, labels: Sequence[str]) -> int:
    if file.parent.name not in labels:
        rule = f"the folder of an image is one of {', '.join(labels)}"
        hint = "name the folder in [model] labels, or move it away"
        raise DataError(f"{file} has a label that the experiment lacks", value=file.parent.name, rule=rule, hint=hint)
    return list(labels).index(file.parent.name)


def read_image(file: Path, pixels: str) -> Tensor:
    """Float32 ``[channels * height * width]`` between 0 and 1, channel by channel; turned as the camera says, then stretched.

    Raises:
        DataError: it does not open.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    colours, height, width = (int(size) for size in pixels.split("x"))
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert(MODES[colours])
            image = upright.resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0][:120]
        raise DataError(
            f"{file} is no image that can be read: {reason}", value=str(file), hint="mend or remove it"
        ) from error
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (values.view(height, width, colours).permute(2, 0, 1).float() / 255).flatten()
