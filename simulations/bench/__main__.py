"""``make bench``: how much of a private federation's time is not training. ``make bench-all``: and what the usual parts take.

Example::

    python -m fedrelease.simulations.bench --rounds 3 --repeats 3 --out bench-out
    python -m fedrelease.simulations.bench --glue --privacy none
"""

import argparse
import json
import sys
from pathlib import Path

from fedrelease.cache import cache_folder
from fedrelease.errors import FedreleaseError
from fedrelease.simulations.bench.command import tell_failure, wide_console
from fedrelease.simulations.bench.measure import Bench, measure
from fedrelease.simulations.bench.picture import bench_png
from fedrelease.simulations.bench.report import document, show
from fedrelease.simulations.bench.scaled import at_least_one, scaled
from fedrelease.simulations.engine import default_workers


def _arguments(typed: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fedrelease.simulations.bench",
        description="Measure the share of a private federation's wall time that is not forward, backward or optimizer.",
        epilog="example: python -m fedrelease.simulations.bench --rounds 3 --repeats 3",
    )
    parser.add_argument("--rounds", type=at_least_one, default=3, help="rounds of one run [default: 3]")
    parser.add_argument("--limit", type=at_least_one, default=1000, help="rows of one site [default: 1000]")
    parser.add_argument("--repeats", type=at_least_one, default=3, help="runs of each side, in turns [default: 3]")
    parser.add_argument("--workers", type=at_least_one, help="worker processes [default: one a core]")
    parser.add_argument(
        "--glue",
        action="store_true",
        help="measure the usual glue too: Flower on Ray, PEFT, Opacus (needs the extra bench)",
    )
    parser.add_argument(
        "--privacy",
        choices=("keep", "none"),
        default="keep",
        help="none: the built-in federation without it [default: keep]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of bench.json [default: bench-out]")
    return parser.parse_args(typed)


def _finish(bench: Bench, folder: Path, *, as_json: bool) -> int:
    """Write and print; 1 when the twin did not do the same work, since then its time says nothing."""
    text = json.dumps(document(bench), indent=2)
    path = folder / "bench.json"
    path.write_text(f"{text}\n", encoding="utf-8")
    if "glue" in bench.sides:
        (folder / "bench.png").write_bytes(bench_png(bench))
    if as_json:
        print(text)
    else:
        show(bench, wide_console())
        print(f"everything measured: {path}")
    return 0 if len(bench.states) == 1 else 1


def main(typed: list[str] | None = None) -> int:
    """Measure, write, print; return the exit code."""
    given = _arguments(typed)
    try:
        bench = measure(
            scaled(given.rounds, given.limit, given.privacy),
            repeats=given.repeats,
            workers=given.workers or default_workers(None),
            folder=given.out,
            cache=cache_folder(),
            say=lambda line: print(line, file=sys.stderr, flush=True),
            glue=given.glue,
        )
        return _finish(bench, given.out, as_json=given.json)
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
