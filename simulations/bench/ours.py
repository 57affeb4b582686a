"""One complete simulation in a process of its own, timed by what it tells its watcher.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.ours task.json        # prints one JSON document
"""

import json
import sys
from pathlib import Path

from fedrelease.experiment_document import from_document
from fedrelease.server.store import Store
from fedrelease.simulations.bench.timeline import Timeline
from fedrelease.simulations.simulate import simulate
from fedrelease.update import state_digest

__all__ = ["main"]


def main() -> None:
    """Simulate, then print the times and the digest of the last state."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    timeline, store = Timeline(), Path(task["store"])
    simulate(
        from_document(task["experiment"]),
        store=store,
        cache=Path(task["cache"]),
        workers=task["workers"],
        watch=timeline.hear,
        say=lambda line: print(line, file=sys.stderr),
    )
    head = Store.open(store).head()
    document = {
        "opened": timeline.opened,
        "first": timeline.first,
        "last": timeline.last,
        "steps": timeline.seconds(),
        "state": state_digest(head.state()) if head else "",
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
