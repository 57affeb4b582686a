"""The picture of tiny clients: time for one client against the cohort, or time and memory of a round against the population.

Example::

    (folder / "small.png").write_bytes(small_png(points))
"""

import io
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrelease.simulations.bench.small_points import Point

__all__ = ["small_png"]

NAMES = {
    "ours": "fedrelease",
    "ours, private": "fedrelease, epsilon 8",
    "bare": "bare loop",
    "pfl": "pfl",
    "ray": "Flower + Ray",
}
COLOURS = {"ours": "#0072B2", "ours, private": "#56B4E9", "bare": "#999999", "pfl": "#009E73", "ray": "#E69F00"}


def small_png(points: Sequence[Point]) -> bytes:
    """PNG bytes; with more than one population the populations lie on the horizontal axis, else the cohorts."""
    figure = Figure(figsize=(10, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    if len({point.population for point in points}) > 1:
        left, right = figure.subplots(1, 2)
        _lines(left, points, "sites in all", [(point.population, 1000 * median(point.round_s)) for point in points])
        left.set_ylabel("ms a round", fontsize=12)
        _lines(right, points, "sites in all", [(point.population, median(point.peak_bytes) / 1e9) for point in points])
        right.set_ylabel("GB, all processes at their most", fontsize=12)
        for axes in (left, right):
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    else:
        axes = figure.subplots()
        _lines(axes, points, "clients a round", [(point.clients, point.client_ms) for point in points])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("ms a client", fontsize=12)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _lines(axes: Axes, points: Sequence[Point], label: str, places: Sequence[tuple[float, float]]) -> None:
    for side in dict.fromkeys(point.side for point in points):
        along = [place for point, place in zip(points, places, strict=True) if point.side == side]
        across, up = zip(*sorted(along), strict=True)
        axes.plot(across, up, marker="o", color=COLOURS[side], label=NAMES[side])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label, fontsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len({point.side for point in points}) > 1:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
