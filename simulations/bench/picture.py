"""The picture of a benchmark: how long each side took for the same rounds.

Example::

    (folder / "bench.png").write_bytes(bench_png(bench))
"""

import io
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrelease.simulations.bench.measure import Bench
from fedrelease.simulations.bench.runs import Run

__all__ = ["bench_png"]

NAMES = {"ours": "fedrelease", "bare": "bare twin", "glue": "Flower + Ray + PEFT + Opacus"}
COLOURS = {"ours": "#0072B2", "bare": "#999999", "glue": "#E69F00"}
INK = "#222222"


def bench_png(bench: Bench) -> bytes:
    """A bar for the median of each side, a line from its shortest to its longest run, as PNG bytes."""
    figure = Figure(figsize=(10, 1.6 + 0.7 * len(bench.sides)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (side, runs) in enumerate(bench.sides.items()):
        _bar(axes, place, side, [run.seconds for run in runs])
    axes.set_yticks(range(len(bench.sides)), [_name(side, runs) for side, runs in bench.sides.items()], fontsize=12)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(run.seconds for runs in bench.sides.values() for run in runs))
    axes.set_xlabel("seconds for all rounds, start-up not counted", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_title(bench), fontsize=13, color=INK)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _bar(axes: Axes, place: int, side: str, seconds: Sequence[float]) -> None:
    middle = median(seconds)
    axes.barh(place, middle, color=COLOURS[side], height=0.6)
    axes.plot([min(seconds), max(seconds)], [place, place], color=INK, linewidth=1.5)
    axes.annotate(f" {middle:.1f} s", (max(seconds), place), va="center", fontsize=12, color=INK)


def _name(side: str, runs: Sequence[Run]) -> str:
    return f"{NAMES[side]}\n{max(run.peak_bytes for run in runs) / 1e9:.1f} GB, {median(run.cpu_s for run in runs):.0f} s CPU"


def _title(bench: Bench) -> str:
    private = bench.experiment.privacy
    what = "no privacy" if private.unit == "none" else f"epsilon {private.epsilon:g}"
    return f"{len(bench.sites)} sites, {bench.experiment.rounds} rounds, {what}, {bench.workers} workers of one thread"
