"""The processes that sites run in: one nursery loads everything once, then forks workers that share its memory.

Example (the engine types this)::

    python -m fedrelease.simulations.worker '{"sockets": [5, 6], "alive": 7, "control": 8, "base": "...", "experiment": {}}'

The nursery keeps no thread and has done no parallel work when it forks. It ends, and its workers with it, as soon as the
engine is gone, however that died: the pipe ``alive`` closes with it. A worker that dies is forked anew, and the engine told.
"""

import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from fedrelease.files import Json

__all__ = ["main"]

WATCH_S = 0.2
LOGGER = logging.getLogger("fedrelease.engine")


def main() -> None:
    """Load, fork, watch."""
    settings = json.loads(sys.argv[1])
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    _load(settings)
    children = {_fork(settings, place): place for place in range(len(settings["sockets"]))}
    _tell(settings, {"ready": len(children)})
    _watch(settings, children)


def _load(settings: Mapping[str, Json]) -> None:
    """Import and build what all workers use, before there are any: they share these pages."""
    import torch
    from flwr.supercore.task_identity import TaskIdentity

    torch.set_num_threads(1)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    from fedrelease.client.app import resident_model
    from fedrelease.experiment_document import from_document

    experiment = settings["experiment"]
    if isinstance(experiment, Mapping):
        resident_model(str(settings["base"]), from_document(experiment).model)


def _fork(settings: Mapping[str, Json], place: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with_parent()
        _serve(_socket(settings, place), Path(str(settings["handover"])))
    finally:
        os._exit(0)


def _die_with_parent() -> None:
    """Where the system can (Linux): a worker ends with its nursery, even if that is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _socket(settings: Mapping[str, Json], place: int) -> socket.socket:
    """This worker's socket; those of the others are closed, so that each has one owner on this side."""
    sockets = settings["sockets"]
    for other, handle in enumerate(sockets):  # type: ignore[arg-type]  # a list of file descriptors
        if other != place:
            os.close(int(str(handle)))
    return socket.socket(fileno=int(str(sockets[place])))  # type: ignore[index]  # the same list


def _serve(connection: socket.socket, handover: Path) -> None:
    from fedrelease.simulations.wire import receive, send

    while (frame := receive(connection)) is not None:
        send(connection, {"id": frame["id"], **_answer(frame, handover)})


def _answer(frame: Mapping[str, Json], handover: Path) -> dict[str, Json]:
    """What the site's ClientApp replies, or, for the operator, what it died of: the text for all, the traceback in the log."""
    from fedrelease.errors import FedreleaseError

    try:
        return {"content": _reply(frame, handover)}
    except Exception as error:  # a site may fail in any way; the others go on
        node = frame["node"]
        site = node.get("site", "?") if isinstance(node, Mapping) else "?"
        LOGGER.error("site %s failed\n%s", site, traceback.format_exc())
        what = error.what if isinstance(error, FedreleaseError) else str(error)
        return {"failed": f"{type(error).__name__}: {what}"}


def _reply(frame: Mapping[str, Json], handover: Path) -> dict[str, Json]:
    from flwr.app import Context, Message, RecordDict

    from fedrelease.client.app import app
    from fedrelease.simulations.wire import pack, unpack

    message = Message(unpack(frame["content"], consume=False), dst_node_id=1, message_type=str(frame["kind"]))
    node = frame["node"]
    settings = {name: str(value) for name, value in node.items()} if isinstance(node, Mapping) else {}
    reply = app(message, Context(run_id=1, node_id=1, node_config={**settings}, state=RecordDict(), run_config={}))
    if reply.has_error():
        return {"failed": reply.error.reason}
    return pack(reply.content, handover)


def _tell(settings: Mapping[str, Json], event: Mapping[str, Json]) -> None:
    os.write(int(str(settings["control"])), json.dumps(event).encode() + b"\n")


def _watch(settings: Mapping[str, Json], children: dict[int, int]) -> None:
    """Replace workers that die; end when the engine is gone."""
    alive = int(str(settings["alive"]))
    while not select.select([alive], [], [], WATCH_S)[0]:
        died, status = os.waitpid(-1, os.WNOHANG)
        if died in children:
            place = children.pop(died)
            _tell(settings, {"died": place, "status": os.waitstatus_to_exitcode(status)})
            children[_fork(settings, place)] = place
    for child in children:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
