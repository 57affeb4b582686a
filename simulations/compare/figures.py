"""The pictures of a comparison: learning curves, differences to the baseline, what quality costs, and every site.

Example::

    for name, png in figures(results, verdict).items():
        (out / name).write_bytes(png)                        # learning-curves.png, differences.png, cost.png, sites.png ...

Equal results give equal bytes. Every colour goes with a marker or a number of its own, so that a grey print can be read too.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedrelease.simulations.compare.attack_table import has_attacks
from fedrelease.simulations.compare.canvas import blank, png_of, safe
from fedrelease.simulations.compare.grids import attacks_png, sites_png
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.search_picture import search_png
from fedrelease.simulations.compare.statistics import mean_interval
from fedrelease.simulations.compare.verdict import Line, Verdict
from fedrelease.simulations.curve import COLOURS, INK

__all__ = ["figures"]

MARKERS = "osD^vPX*"
STROKES = ("-", "--", ":", "-.")
TICKS_SHOWN = 5
MOST_TOGETHER = 4
PANELS_ACROSS = 4
ACCURACY = "accuracy, mean of the sites"


def figures(results: Results, verdict: Verdict) -> Mapping[str, bytes]:
    """File name -> PNG. A picture that would have nothing in it is left out."""
    names = results.names()
    drawn = {"learning-curves.png": _curves(results, verdict)} if any(map(results.finals, names)) else {}
    if any(line.against is not None for line in verdict.lines):
        drawn["differences.png"] = _differences(verdict)
    if any(line.bytes_total is not None for line in verdict.lines):
        drawn["cost.png"] = _cost(verdict, names)
    if any(any(by_seed.values()) for by_seed in map(results.by_site, names)):
        drawn["sites.png"] = sites_png(results, verdict)
    if results.trials:
        drawn["search.png"] = search_png(results)
    if has_attacks(results.plan) and any(map(results.finals, names)):
        drawn["attacks.png"] = attacks_png(results, verdict)
    return drawn


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _marker(place: int) -> str:
    """Shifted with each turn of the colours, so that no two of the first 64 variants look alike."""
    return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def _stroke(place: int) -> str:
    return STROKES[place // len(COLOURS) % len(STROKES)]


def _style(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(up, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(color="#E2E2E2")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the axes, never over the data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=11, frameon=False)


def _height(count: int, least: float = 5.0) -> float:
    return max(least, 1.4 + 0.34 * count)


def _curves(results: Results, verdict: Verdict) -> bytes:
    """One picture for a few variants, best first in the legend, as the lines end; else one panel for each."""
    names, seeds = results.names(), len(results.plan.seeds)
    band = ", with 95 % intervals" if seeds > 2 else ""
    title = f"Accuracy by round: mean of {_count(seeds, 'seed')}{band}"
    if len(names) > MOST_TOGETHER:
        return _panels(results, verdict, f"{title}; grey: {safe(verdict.baseline)}")
    figure = blank(10, _height(len(names)), title)
    axes = figure.subplots()
    _style(axes, "round (0 is the base)", ACCURACY)
    for name in (line.variant for line in verdict.lines):
        place, told = names.index(name), _by_round(results, name)
        if told:
            middle = [mean(values) for values in told.values()]
            look, mark, colour = _stroke(place), _marker(place), _colour(place)
            axes.plot(list(told), middle, look, marker=mark, color=colour, label=safe(name), linewidth=2)
            _band(axes, told, colour, alpha=0.13)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes)
    return png_of(figure)


def _panels(results: Results, verdict: Verdict, title: str) -> bytes:
    """Best first, each beside the baseline: bands of many variants over each other tell nothing."""
    names = [line.variant for line in verdict.lines if _by_round(results, line.variant)]
    rows = math.ceil(len(names) / PANELS_ACROSS)
    figure = blank(3.1 * PANELS_ACROSS, 0.6 + 2.4 * rows, title)
    panels = figure.subplots(rows, PANELS_ACROSS, sharex=True, sharey=True, squeeze=False)
    before = _by_round(results, verdict.baseline)
    for number, axes in enumerate(panels.flat):
        last, first = number + PANELS_ACROSS >= len(names), number % PANELS_ACROSS == 0
        _style(axes, "round (0 is the base)" if last else "", "accuracy" if first else "")
        axes.set_visible(number < len(names))
        for name in names[number : number + 1]:
            colour, told = _colour(results.names().index(name)), _by_round(results, name)
            axes.plot(list(before), [mean(values) for values in before.values()], color="#9A9A9A", linewidth=1.5)
            axes.plot(list(told), [mean(values) for values in told.values()], color=colour, linewidth=2, marker="o")
            _band(axes, told, colour, alpha=0.18)
            axes.set_title(safe(name), fontsize=11, color=INK, loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.tick_params(labelbottom=last)
    return png_of(figure)


def _by_round(results: Results, name: str) -> dict[int, list[float]]:
    """Accuracies by round over those runs that finished."""
    found: dict[int, list[float]] = {}
    for run in results.of(name):
        for row in run.rows if run.failed is None else ():
            if row.accuracy is not None:
                found.setdefault(row.round, []).append(row.accuracy)
    return dict(sorted(found.items()))


def _band(axes: Axes, told: Mapping[int, Sequence[float]], colour: str, *, alpha: float) -> None:
    spans = {round_: span for round_, values in told.items() if (span := mean_interval(values)) is not None}
    if spans:
        low, high = zip(*spans.values(), strict=True)
        axes.fill_between(list(spans), low, high, color=colour, alpha=alpha, linewidth=0)


def _differences(verdict: Verdict) -> bytes:
    shown = [line for line in reversed(verdict.lines) if line.against is not None]
    title = f"Difference of final accuracy to {safe(verdict.baseline)}, paired by seed"
    figure = blank(9, _height(len(shown), 2.6), title)
    axes = figure.subplots()
    _style(axes, "difference of accuracy (95 % interval; filled: corrected p < 0.05)", "")
    axes.axvline(0, color=INK, linewidth=1.2)
    for place, line in enumerate(shown):
        _whisker(axes, place, line)
    axes.set_yticks(range(len(shown)), [safe(line.variant) for line in shown], fontsize=11)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    return png_of(figure)


def _whisker(axes: Axes, place: int, line: Line) -> None:
    against = line.against
    if against is None:
        return
    sure = against.corrected is not None and against.corrected < 0.05
    middle, span = against.paired.difference, against.paired.interval
    if span is not None:
        axes.plot(span, [place, place], color=COLOURS[0], linewidth=2, solid_capstyle="butt")
    axes.plot(middle, place, "o", color=COLOURS[0] if sure else "white", markeredgecolor=COLOURS[0], markersize=8)
    axes.annotate(
        f"{middle:+.4f}", (middle, place), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=10
    )


def _cost(verdict: Verdict, names: Sequence[str]) -> bytes:
    """Quality against bytes, and against epsilon where there is privacy."""
    private = any(line.epsilon is not None for line in verdict.lines)
    costs = {
        "sent from and to the sites in a run (MB)": _megabytes,
        **({"epsilon (worst site)": _epsilon} if private else {}),
    }
    what = "bytes and privacy" if private else "bytes"
    figure = blank(
        6.5 * len(costs) + 1.5,
        _height(len(names)),
        f"What final accuracy costs in {what}; up and left is better, equal costs stand side by side",
    )
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, (label, cost) in zip(panels, costs.items(), strict=True):
        _style(axes, label, ACCURACY if axes is panels[0] else "")
        points = [(line, x) for line in verdict.lines if (x := cost(line)) is not None and line.accuracy is not None]
        _front(axes, points)
        for line, x in points:
            _point(axes, line, x + _aside(points, line, x), names.index(line.variant))
        _room(axes, [x for _, x in points])
    _legend(figure, panels[0])
    return png_of(figure)


def _megabytes(line: Line) -> float | None:
    return None if line.bytes_total is None else line.bytes_total / 1e6


def _epsilon(line: Line) -> float | None:
    return line.epsilon


def _aside(points: Sequence[tuple[Line, float]], line: Line, x: float) -> float:
    """Points at one place are drawn side by side, 0.8 % apart."""
    near = [other for other, at in points if math.isclose(at, x, rel_tol=0.01)]
    return (near.index(line) - (len(near) - 1) / 2) * 0.008 * max(x, 1e-9)


def _point(axes: Axes, line: Line, x: float, place: int) -> None:
    if line.accuracy is None:
        return
    name, colour = safe(line.variant), _colour(place)
    axes.plot(
        x,
        line.accuracy,
        _marker(place),
        color=colour,
        markersize=10,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=name,
        zorder=3,
    )
    if line.interval is not None:
        axes.plot([x, x], line.interval, color=colour, linewidth=1.2, alpha=0.7, zorder=2)


def _front(axes: Axes, points: Sequence[tuple[Line, float]]) -> None:
    """The best accuracy that can be had for at most so much."""
    best, steps = -math.inf, list[tuple[float, float]]()
    for x, quality in sorted((x, -(line.accuracy or 0.0)) for line, x in points):
        if -quality > best:
            best = -quality
            steps.append((x, best))
    if len(steps) > 1:
        across, up = zip(*steps, strict=True)
        axes.step(across, up, where="post", color="#999999", linewidth=1, zorder=1)


def _room(axes: Axes, at: Sequence[float]) -> None:
    """Costs that hardly differ must not look as if they did: a wide axis, and a tick at each true cost where these are few."""
    if not at:
        return
    low, high = min(at), max(at)
    pad = max(0.15 * (high - low), 0.1 * high, 1e-9)
    axes.set_xlim(max(0.0, low - pad), high + pad)
    told = [
        x
        for place, x in enumerate(sorted(at))
        if place == 0 or not math.isclose(x, sorted(at)[place - 1], rel_tol=0.01)
    ]
    if len(told) <= TICKS_SHOWN and all(after - before > pad / 3 for before, after in pairwise(told)):
        axes.set_xticks(told, [f"{x:.3g}" for x in told])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
