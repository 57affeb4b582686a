"""Tables in colour: accuracy of each variant at each site, and of each strategy under each attack.

Example::

    png = sites_png(results, verdict)
    png = attacks_png(results, verdict)          # of a comparison with --attacks sign-flip
"""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from fedrelease.simulations.compare.attack_table import strategy_of, under_attack
from fedrelease.simulations.compare.canvas import blank, png_of, safe
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.verdict import Verdict

__all__ = ["attacks_png", "sites_png"]

SITES_SHOWN = 30
NUMBERS_SHOWN = 14


def sites_png(results: Results, verdict: Verdict) -> bytes:
    """Mean final accuracy over seeds of each variant at each site; with many sites, the worst of them."""
    means = {line.variant: _site_means(results, line.variant) for line in verdict.lines}
    means = {name: sites for name, sites in means.items() if sites}
    every = sorted({site for sites in means.values() for site in sites}, key=lambda site: _typical(means, site))
    sites = sorted(every[:SITES_SHOWN])
    more = f", the {len(sites)} lowest of {len(every)}" if len(every) > len(sites) else ""
    return _grid(means, sites, f"Final accuracy by site{more}")


def attacks_png(results: Results, verdict: Verdict) -> bytes:
    """Mean final accuracy over seeds of each strategy under each attack."""
    found = under_attack(results)
    order = {line.variant: place for place, line in reversed(list(enumerate(verdict.lines)))}
    best = sorted(results.plan.variants, key=lambda variant: order[variant.name])
    means = {
        name: {kind: one.accuracy for (of, kind), one in found.items() if of == name and one.accuracy is not None}
        for name in dict.fromkeys(map(strategy_of, best))
    }
    kinds = list(dict.fromkeys(kind for _, kind in found))
    return _grid({name: of for name, of in means.items() if of}, kinds, "Final accuracy under attack")


def _grid(means: Mapping[str, Mapping[str, float]], columns: Sequence[str], title: str) -> bytes:
    figure = blank(max(6.5, 3.5 + 0.75 * len(columns)), 2.2 + 0.42 * len(means), title)
    axes = figure.subplots()
    grid = [[of.get(column, math.nan) for column in columns] for of in means.values()]
    image = axes.imshow(grid, cmap="cividis", aspect="auto")
    long = max(len(column) for column in columns) > 8
    axes.set_xticks(
        range(len(columns)), map(safe, columns), rotation=45 if long else 0, ha="right" if long else "center"
    )
    axes.set_yticks(range(len(means)), map(safe, means))
    axes.tick_params(labelsize=11, length=0)
    if len(columns) <= NUMBERS_SHOWN:
        _numbers(axes, grid)
    figure.colorbar(image, ax=axes, label="accuracy, mean over seeds", pad=0.02)
    return png_of(figure)


def _site_means(results: Results, name: str) -> dict[str, float]:
    runs = list(results.by_site(name).values())
    return {
        site: mean([run[site] for run in runs if site in run])
        for site in sorted({site for run in runs for site in run})
    }


def _typical(means: Mapping[str, Mapping[str, float]], site: str) -> float:
    return mean([sites[site] for sites in means.values() if site in sites])


def _numbers(axes: Axes, grid: Sequence[Sequence[float]]) -> None:
    """The number in each cell, light on dark and dark on light."""
    known = [value for row in grid for value in row if not math.isnan(value)]
    middle = (min(known) + max(known)) / 2
    for up, row in enumerate(grid):
        for across, value in enumerate(row):
            if not math.isnan(value):
                colour = "white" if value < middle else "black"
                axes.text(across, up, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=11)
