"""What the benchmarks' command lines share: how a failure is told, and where tables go.

Example::

    try:
        show(measure(), wide_console())
    except FedreleaseError as error:
        return tell_failure(error, as_json=given.json)
"""

import json
import sys

from rich.console import Console

from fedrelease.errors import FedreleaseError

__all__ = ["tell_failure", "wide_console"]


def tell_failure(error: FedreleaseError, *, as_json: bool) -> int:
    """Say on stderr what went wrong; the exit code."""
    print(json.dumps({"error": error.to_json()}) if as_json else f"error: {error}", file=sys.stderr)
    return error.exit_code


def wide_console() -> Console:
    """stdout, as wide as the terminal; in a file or a pipe nothing is cut."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000)
