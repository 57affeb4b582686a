"""The picture of a search: what each trial came to, and the best until then, one panel for each variant.

Example::

    png = search_png(results)
"""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedrelease.simulations.compare.canvas import blank, png_of, safe
from fedrelease.simulations.compare.results import Results, Trial
from fedrelease.simulations.curve import COLOURS, INK

__all__ = ["search_png"]

PANELS_ACROSS = 4


def search_png(results: Results) -> bytes:
    """A panel a variant on one scale; a trial that failed is a cross at the lower edge."""
    names = results.names()
    across = min(PANELS_ACROSS, len(names))
    down = math.ceil(len(names) / across)
    what = results.plan.search.objective if results.plan.search else "accuracy"
    figure = blank(3.2 * across + 1.2, 2.6 * down + 1.2, f"{what} by trial; line: best so far; cross: failed")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    told = [trial.objective for trial in results.trials if trial.objective is not None]
    for place, axes in enumerate(panels.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        of = [trial for trial in results.trials if trial.run.variant.name == names[place]]
        _panel(axes, of, names[place], floor=min(told, default=0.0))
    figure.supxlabel("trial", fontsize=12)
    figure.supylabel(what, fontsize=12)
    return png_of(figure)


def _panel(axes: Axes, trials: list[Trial], name: str, *, floor: float) -> None:
    good = [trial for trial in trials if trial.objective is not None]
    at = [trial.run.trial or 0 for trial in good]
    values = [trial.objective or 0.0 for trial in good]
    best = [max(values[: place + 1]) for place in range(len(values))]
    axes.step(at, best, where="post", color=COLOURS[0], linewidth=2)
    axes.plot(at, values, "o", color="white", markeredgecolor=COLOURS[0], markersize=7)
    if good:
        axes.plot(at[values.index(max(values))], max(values), "o", color=COLOURS[0], markersize=7)
    lost = [trial.run.trial or 0 for trial in trials if trial.objective is None]
    axes.plot(lost, [floor] * len(lost), "x", color=COLOURS[5], markersize=8, markeredgewidth=2)
    axes.set_title(safe(name), fontsize=11, color=INK, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#E2E2E2")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
