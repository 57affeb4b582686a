"""The picture of sampled stacks: a box for each function, as wide as its time, and below it what it called.

Example::

    (folder / "flame.png").write_bytes(flame_png(stacks, title="one worker, 17.2 s"))
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextPath

from fedrelease.simulations.bench.owners import OWNERS, by_owner, owner, short
from fedrelease.simulations.bench.sampler import Stack

__all__ = ["Box", "boxes", "flame_png"]

PASSING = (
    "._wrapped_call_impl",
    "._call_impl",
    ".decorate_context",
    ".forward_with_checkpointing",
    ".apply_chunking_to_forward",
    ".wrapper",
    ".Function.apply",
    ".BackwardCFunction.apply",
    "._apply",
    ".<lambda>",
    ".<listcomp>",
)
"""Ends of names that only hand a call on; the picture leaves them out above what they call."""
COLOURS = {
    "fedrelease": "#0072B2",
    "torch": "#E69F00",
    "transformers": "#CC79A7",
    "peft": "#56B4E9",
    "opacus": "#009E73",
    "other": "#BBBBBB",
}
INK = "#222222"
WIDTH_PX, ROW_PX, MARGIN_PX, DPI = 1600, 24, 12, 100
LETTERS = 8.5
EXPLAINED = "A box is a function, as wide as its time; below it is what it called. By owner of the innermost function:"
NARROWEST = 0.0008
FEWEST_LETTERS = 4
NARROWEST_LABEL_PX = 30


@dataclass(frozen=True, kw_only=True)
class Box:
    """A function below one caller: ``depth`` rows from the top, ``left`` and ``share`` of the width, from 0 to 1."""

    function: str
    depth: int
    left: float
    share: float


def boxes(stacks: Mapping[Stack, int]) -> list[Box]:
    """All boxes, callers before what they call; on one row the widest first, so that what matters is at the left."""
    total, sums = sum(stacks.values()), dict[Stack, int]()
    for stack, microseconds in stacks.items():
        kept = _without_passing(stack)
        for depth in range(1, len(kept) + 1):
            sums[kept[:depth]] = sums.get(kept[:depth], 0) + microseconds
    below: dict[Stack, list[Stack]] = {}
    for path in sorted(sums, key=lambda path: (-sums[path], path)):
        below.setdefault(path[:-1], []).append(path)
    return [
        Box(function=path[-1], depth=len(path) - 1, left=left / total, share=sums[path] / total)
        for path, left in _placed((), 0, below, sums)
    ]


def _without_passing(stack: Stack) -> Stack:
    return (*(function for function in stack[:-1] if not function.endswith(PASSING)), *stack[-1:])


def _placed(
    above: Stack, left: int, below: Mapping[Stack, list[Stack]], sums: Mapping[Stack, int]
) -> Iterator[tuple[Stack, int]]:
    for path in below.get(above, []):
        yield path, left
        yield from _placed(path, left, below, sums)
        left += sums[path]


def flame_png(stacks: Mapping[Stack, int], *, title: str) -> bytes:
    """The picture as PNG bytes, 1600 pixels wide; ``title`` is its first line."""
    found = [box for box in boxes(stacks) if box.share >= NARROWEST]
    rows = 1 + max(box.depth for box in found)
    height = ROW_PX * (rows + 3) + MARGIN_PX
    figure = Figure(figsize=(WIDTH_PX / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    side = MARGIN_PX / WIDTH_PX
    axes = figure.add_axes((side, MARGIN_PX / height, 1 - 2 * side, ROW_PX * rows / height))
    axes.set_xlim(0, 1)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()
    for box in found:
        _draw(axes, box)
    figure.text(side, 1 - 0.4 * ROW_PX / height, title, va="top", fontsize=12, color=INK)
    figure.text(side, 1 - 1.3 * ROW_PX / height, EXPLAINED, va="top", fontsize=10, color=INK)
    _legend(figure, stacks, (side, 1 - 2.1 * ROW_PX / height))
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw(axes: Axes, box: Box) -> None:
    kind = owner(box.function)
    place = (box.left, box.depth)
    axes.add_patch(Rectangle(place, box.share, 1, facecolor=COLOURS[kind], edgecolor="white", linewidth=0.8))
    text = _label(box, room_px=box.share * (WIDTH_PX - 2 * MARGIN_PX) - 6)
    ink = "white" if kind == "fedrelease" else INK
    middle = (3, -ROW_PX * 36 / DPI)
    axes.annotate(text, place, xytext=middle, textcoords="offset points", va="center", fontsize=LETTERS, color=ink)


def _label(box: Box, *, room_px: float) -> str:
    """As much of name and share as there is room for: the whole name, its end (a method with its class), or that cut off."""
    name, share = short(box.function), f" {box.share:.0%}" if box.share >= 0.1 else f" {box.share:.1%}"
    *_, owned_by, last = name.split(".")
    end = f"{owned_by}.{last}" if owned_by.lstrip("_")[:1].isupper() else last
    cut = (f"{end[:letters]}…" for letters in range(len(end) - 1, FEWEST_LETTERS - 1, -1))
    whole = () if room_px < NARROWEST_LABEL_PX else (name + share, end + share, end, *cut)
    return next((text for text in whole if _width_px(text) <= room_px), "")


@cache
def _width_px(text: str) -> float:
    return float(TextPath((0, 0), text, size=LETTERS).get_extents().width) * DPI / 72


def _legend(figure: Figure, stacks: Mapping[Stack, int], place: tuple[float, float]) -> None:
    shares = by_owner(stacks)
    patches = [Patch(color=COLOURS[name], label=f"{told} {shares[name]:.1%}") for name, told in OWNERS.items()]
    figure.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=place,
        ncols=len(patches),
        frameon=False,
        fontsize=10,
        borderpad=0,
        borderaxespad=0,
        handlelength=1,
        columnspacing=1.2,
    )
