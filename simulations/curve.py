"""The picture of how a federation learned: accuracy of the mean and of every site; below it the task's own metric, and epsilon.

Example::

    png = curve_png(rows, name="four-sites")       # 1200 x 750 pixels, without any global state of matplotlib
"""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrelease.simulations.report import Row

__all__ = ["curve_png"]

# Okabe and Ito's colours: told apart with every common form of colour blindness. https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C7500", "#666666")
INK = "#222222"
LABELS_SHOWN = 16
WIDE = 10.0
NOTHING_TOLD = "The sites keep their metrics private, so there is no accuracy to draw."


def curve_png(rows: Sequence[Row], *, name: str) -> bytes:
    """The picture as PNG bytes; equal rows give equal bytes."""
    figure = Figure(figsize=(12, 7.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    beside = _beside(rows)
    private = any(row.epsilon is not None for row in rows)
    panels = _panels(figure, [4, *([2] if beside else []), *([1] if private else [])])
    _title(figure, rows, name)
    _draw_accuracy(panels[0], rows)
    if beside:
        _draw_beside(panels[1], rows, beside)
    if private:
        _draw_epsilon(panels[-1], rows)
    _label_versions(panels[-1], rows)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _panels(figure: Figure, heights: Sequence[int]) -> list[Axes]:
    """One above the other, of these heights; only the lowest names versions."""
    column = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes in column[:-1]:
        axes.tick_params(labelbottom=False)
    return list(column)


def _beside(rows: Sequence[Row]) -> str | None:
    """The first metric that the task shows beside accuracy, if any release tells it."""
    names = (name for row in rows for name, value in row.shown.items() if value is not None)
    return next(names, None)


def _title(figure: Figure, rows: Sequence[Row], name: str) -> None:
    told = [row for row in rows if row.accuracy is not None]
    parts = [f"accuracy {told[0].accuracy:.3f} at {told[0].version}"] if told else []
    if len(told) > 1:
        parts[0] = f"{parts[0]}, {told[-1].accuracy:.3f} at {told[-1].version}"
    epsilons = [row.epsilon for row in rows if row.epsilon is not None]
    parts.append(f"epsilon {epsilons[-1]:.2f} (worst site)" if epsilons else "no differential privacy")
    figure.suptitle(f"{_safe(name)}\n{' · '.join(parts)}", fontsize=16, color=INK)


def _safe(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    _style(axes, "accuracy on hold-outs")
    at = list(range(len(rows)))
    sites = sorted({site for row in rows for site in row.sites})
    if not sites and all(row.accuracy is None for row in rows):
        axes.text(0.5, 0.5, NOTHING_TOLD, transform=axes.transAxes, ha="center", va="center", fontsize=14)
        axes.set_yticks([])
        return
    _draw_sites(axes, rows, sites)
    mean = _numbers([row.accuracy for row in rows])
    whose = "mean of the sites" if sites else "the server's hold-out"
    axes.plot(at, mean, color=INK, linewidth=3, marker="o", markersize=8, label=whose, zorder=4)
    held = [index for index, row in enumerate(rows) if row.verdict == "held"]
    if held:
        held_mean = [mean[index] for index in held]
        axes.plot(held, held_mean, "o", color="white", markeredgecolor=INK, markersize=9, label="held", zorder=5)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=12, frameon=False)


def _draw_beside(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """The same means of another metric; by powers of ten where it spans more than one of them."""
    _style(axes, name.replace("_", " "))
    values = _numbers([row.shown.get(name) for row in rows])
    axes.plot(range(len(rows)), values, color=INK, linewidth=2, marker="s", markersize=6)
    told = [value for value in values if not math.isnan(value)]
    if min(told) > 0 and max(told) > WIDE * min(told):
        axes.set_yscale("log")


def _draw_sites(axes: Axes, rows: Sequence[Row], sites: Sequence[str]) -> None:
    """Every site's line and the band from worst to best; with more sites than colours, thin grey lines."""
    at = list(range(len(rows)))
    few = len(sites) <= len(COLOURS)
    for index, site in enumerate(sites):
        line = _numbers([row.sites.get(site) for row in rows])
        colour = COLOURS[index] if few else "#999999"
        label = _safe(site) if few else f"each of {len(sites)} sites" if index == 0 else None
        width, mark = (1.6, 4) if few else (0.7, 0)
        axes.plot(at, line, color=colour, linewidth=width, marker="o", markersize=mark, label=label)
    if len(sites) > 1:
        low = _numbers([min(row.sites.values(), default=None) for row in rows])
        high = _numbers([max(row.sites.values(), default=None) for row in rows])
        axes.fill_between(at, low, high, color="#BBBBBB", alpha=0.25, linewidth=0, label="worst to best site")


def _draw_epsilon(axes: Axes, rows: Sequence[Row]) -> None:
    _style(axes, "epsilon")
    values = _numbers([row.epsilon for row in rows])
    axes.bar(range(len(rows)), values, color="#7A7A7A", width=0.5)
    known = [value for value in values if not math.isnan(value)]
    axes.set_ylim(0, 1.25 * max(known) if known and max(known) > 0 else 1)
    if len(rows) <= LABELS_SHOWN:
        for index, value in enumerate(values):
            if not math.isnan(value):
                axes.annotate(f"{value:.2f}", (index, value), ha="center", va="bottom", fontsize=11, color=INK)


def _label_versions(axes: Axes, rows: Sequence[Row]) -> None:
    step = max(1, math.ceil(len(rows) / LABELS_SHOWN))
    shown = sorted({*range(0, len(rows), step)} | ({len(rows) - 1} if rows else set()))
    if len(shown) > 1 and shown[-1] - shown[-2] < step:
        del shown[-2]
    axes.set_xticks(shown, [rows[index].version for index in shown], fontsize=12)
    axes.set_xlim(-0.5, max(len(rows) - 0.5, 0.5))
    axes.set_xlabel("version", fontsize=13)


def _style(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(axis="y", color="#E2E2E2")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
