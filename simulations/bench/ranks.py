"""How far each rule for LoRA factors is from the mean of the sites' products, with mixed and with equal ranks.

Example::

    python -m fedrelease.simulations.bench.ranks                   # random factors
    python -m fedrelease.simulations.bench.ranks --train           # and those of one real round at four sites (MiniLM)

The mean is formed as a dense matrix in float64 here, since it is what the rules are checked against. A stack is exact and has the
sum of all ranks; all other rules give the parent's rank, and the SVD of the dense mean tells the least that this can cost.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fedrelease.errors import FedreleaseError
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.ranks_errors import Miss, misses
from fedrelease.simulations.bench.ranks_factors import EQUAL, MIXED, drawn_factors, trained_factors
from fedrelease.simulations.bench.scaled import at_least_one

__all__ = ["main"]


def _show(found: Sequence[Miss], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("factors", "ranks", "rule", "rank", "largest error", "relative error"):
        table.add_column(column, justify="left" if column in ("factors", "ranks", "rule") else "right", no_wrap=True)
    for miss in found:
        ranks = ", ".join(map(str, miss.ranks))
        table.add_row(miss.factors, ranks, miss.rule, str(miss.rank), f"{miss.largest:.1e}", f"{miss.relative:.6f}")
    console.print(table)


def _arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench.ranks",
        description="Compare rules for LoRA factors with the dense mean of the sites' products.",
    )
    parser.add_argument("--train", action="store_true", help="also on factors that four sites really trained")
    parser.add_argument("--rows", type=at_least_one, default=200, help="with --train: rows a site [default: 200]")
    parser.add_argument("--width", type=at_least_one, default=384, help="of the random layer [default: 384]")
    parser.add_argument("--seed", type=int, default=0, help="of the random factors [default: 0]")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(typed)


def main(typed: Sequence[str] | None = None) -> int:
    """Aggregate, compare, print; return the exit code."""
    given = _arguments(typed)
    try:
        rounds = [drawn_factors(ranks, width=given.width, seed=given.seed) for ranks in (MIXED, EQUAL)]
        if given.train:
            rounds += [trained_factors(ranks, rows=given.rows) for ranks in (MIXED, EQUAL)]
        found = [miss for one in rounds for miss in misses(one)]
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
    if given.json:
        print(json.dumps([miss.to_json() for miss in found], indent=2))
    else:
        _show(found, wide_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
