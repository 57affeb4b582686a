"""One JSON object a line: what a process of a deployment did, for people and machines that read logs.

Example::

    log = Log(folder / "log" / "gateway.log", process="gateway")
    log("refused", peer="10.0.0.9", path="/v1/control/start-run", why="no path of sites")
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from fedrelease.files import Json

__all__ = ["Log"]

LONGEST = 500
"""Characters of one value: what strangers send is not kept whole."""


@final
class Log:
    """A file of lines. Nothing secret belongs into one: no token, no key, no row."""

    def __init__(self, path: Path, *, process: str) -> None:
        """``process`` stands in each line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._process = path, process

    def __call__(self, event: str, **facts: Json) -> None:
        """Write one line with the time of now in UTC."""
        told = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in facts.items()}
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "process": self._process, "event": event, **told}, ensure_ascii=True)
        with self.path.open("a", encoding="ascii") as file:  # opened anew: logs are rotated by moving them away
            file.write(line + "\n")
