"""Tables in colour: accuracy of each variant at each site, and of each strategy under each attack.

Example::

    png = sites_png(results, verdict)
    png = attacks_png(results, verdict)          # of a comparison with --vary attack.kind=none,sign-flip
"""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from fedrelease.simulations.compare.canvas import blank, png_of, safe
from fedrelease.simulations.compare.plan import Variant
from fedrelease.simulations.compare.results import Results
from fedrelease.simulations.compare.verdict import Verdict

__all__ = ["ATTACKS", "attacks_png", "sites_png", "under_attack"]

ATTACKS = "attack.kind"
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
    """Mean final accuracy over seeds of each strategy under each attack that was swept."""
    told = under_attack(results)
    order = [line.variant for line in verdict.lines]
    best = sorted(told, key=lambda name: min(order.index(variant) for variant in _variants_of(results, name)))
    kinds = list(dict.fromkeys(variant.experiment.attack.kind for variant in results.plan.variants))
    return _grid({name: told[name] for name in best}, kinds, "Final accuracy under attack")


def under_attack(results: Results) -> Mapping[str, Mapping[str, float]]:
    """Variant without its attack -> kind of attack -> mean final accuracy over seeds."""
    found: dict[str, dict[str, float]] = {}
    for variant in results.plan.variants:
        finals = list(results.finals(variant.name).values())
        if finals:
            found.setdefault(_without_attack(variant), {})[variant.experiment.attack.kind] = mean(finals)
    return found


def _without_attack(variant: Variant) -> str:
    words = [word for word in variant.name.split(" ") if not word.startswith(f"{ATTACKS}=")]
    return " ".join(words) or "the experiment's own"


def _variants_of(results: Results, name: str) -> list[str]:
    return [variant.name for variant in results.plan.variants if _without_attack(variant) == name]


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
