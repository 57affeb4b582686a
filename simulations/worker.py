"""The processes that sites run in: one nursery loads everything once, then forks workers that share its memory.

Example (the engine types this)::

    python -P -m fedrelease.simulations.worker '{"workers": 2, "alive": 7, "control": 8, "base": "...", "experiment": {}}'

The nursery keeps no thread and has done no parallel work when it forks. It ends, and its workers and handover files with it, as
soon as the engine is gone, however that died: the pipe ``alive`` closes with it. A worker that dies is forked anew. Every worker
has a socket of its own, whose other end goes to the engine through ``control``, so that its death is an end of file there.
"""

import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fedrelease.errors import EngineError, ModelError
from fedrelease.files import Json

__all__ = ["INITIAL", "answer", "load", "main", "settle_threads"]

INITIAL = "initial"
"""The kind of a task that asks for the state that training starts from instead of asking a site."""

WATCH_S = 0.2
LOGGER = logging.getLogger("fedrelease.engine")


def main() -> None:
    """Load, fork, watch."""
    settings = json.loads(sys.argv[1])
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    control, children = socket.socket(fileno=settings["control"]), dict[int, int]()
    signal.signal(signal.SIGTERM, lambda *_: _end(settings, children))
    _die_with_parent(signal.SIGTERM)
    try:
        if _loaded(settings, control):
            for place in range(settings["workers"]):
                children[_fork(settings, control, place)] = place
            _watch(settings, control, children)
    except OSError:
        LOGGER.error("the nursery ends\n%s", traceback.format_exc())
    finally:
        _end(settings, children)


def _end(settings: Mapping[str, Json], children: Mapping[int, int]) -> NoReturn:
    """Leave nothing behind: no worker, no file. The engine's end is told twice, by its socket and by a signal: once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    for child in children:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    shutil.rmtree(str(settings["handover"]), ignore_errors=True)
    os._exit(0)


def _loaded(settings: Mapping[str, Json], control: socket.socket) -> bool:
    """Whether all that workers need is there; else the engine is told why not."""
    from fedrelease.errors import FedreleaseError

    try:
        load(settings)
    except FedreleaseError as error:
        LOGGER.error("the workers cannot load\n%s", traceback.format_exc())
        control.sendall(_line({"refused": dict(error.to_json())}))
        return False
    return True


def load(settings: Mapping[str, Json]) -> None:
    """Import and build what all workers use, before there are any: they share these pages."""
    import torch
    from flwr.supercore.task_identity import TaskIdentity

    torch.set_num_threads(1)  # no parallel work before the fork
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    from fedrelease.client.app import resident_model
    from fedrelease.experiment_document import from_document

    experiment = settings["experiment"]
    if isinstance(experiment, Mapping):
        resident_model(str(settings["base"]), from_document(experiment).model_at(0))


def _fork(settings: Mapping[str, Json], control: socket.socket, place: int, status: int | None = None) -> int:
    """Start a worker; ``status`` is how the one before it in this place ended."""
    nursery, (engines, workers) = os.getpid(), socket.socketpair()
    child = os.fork()
    if child:
        socket.send_fds(control, [_line({"place": place, "status": status})], [engines.fileno()])
        engines.close()
        workers.close()
        return child
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent(signal.SIGKILL)
        engines.close()
        control.close()
        os.close(int(str(settings["alive"])))
        settle_threads()
        if os.getppid() == nursery:  # it may have died before the line above could see it
            _serve(workers, Path(str(settings["handover"])))
    except Exception:
        LOGGER.error("a worker ends\n%s", traceback.format_exc())
    finally:
        os._exit(0)


def settle_threads() -> None:
    """Let torch replace its thread pool, which does not survive a fork, while there is one thread.

    It does so at the first parallel work after the fork; if two threads begin at once, as those do that read a base, one of them
    finds no pool ("Invalid thread pool!").
    """
    import torch

    torch.set_num_threads(1)


def _die_with_parent(by: signal.Signals) -> None:
    """Where the system can (Linux): a process ends with its parent, even if that is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, by)


def _serve(connection: socket.socket, handover: Path) -> None:
    from fedrelease.simulations.wire import receive, send

    while (frame := receive(connection)) is not None:
        send(connection, {"id": frame["id"], **answer(frame, handover)})


def answer(frame: Mapping[str, Json], handover: Path) -> dict[str, Json]:
    """What the site's ClientApp replies, or, for the operator, what it died of: the text for all, the traceback in the log.

    A frame with ``nodes`` asks several sites at once.
    """
    if "nodes" in frame:
        return _answers(frame, handover)
    try:
        return {"content": _initial(frame, handover) if frame["kind"] == INITIAL else _reply(frame, handover)}
    except ModelError as error:  # of the base or the adapter: all sites would say so
        return {"failed": _failure(frame["node"], error), "refused": dict(error.to_json())}
    except Exception as error:  # a site may fail in any way; the others go on
        return {"failed": _failure(frame["node"], error)}


def _failure(node: Json, error: Exception) -> str:
    from fedrelease.simulations.wire_group import reason_of

    site = node.get("site", "?") if isinstance(node, Mapping) else "?"
    LOGGER.error("site %s failed\n%s", site, "".join(traceback.format_exception(error)))
    return reason_of(error)


def _answers(frame: Mapping[str, Any], handover: Path) -> dict[str, Json]:
    """The same for several sites that are asked at once, in one reply."""
    from fedrelease.client.app import evaluate_nodes, train_nodes
    from fedrelease.simulations.wire import unpack
    from fedrelease.simulations.wire_group import pack_group

    nodes = frame["nodes"]
    ask = train_nodes if frame["kind"] == "train" else evaluate_nodes
    try:
        outcomes = ask(unpack(frame["content"], consume=False), nodes)
        for node, outcome in zip(nodes, outcomes, strict=True):
            if isinstance(outcome, Exception):
                _failure(node, outcome)
        return pack_group(outcomes, handover)
    except Exception as error:
        return {"failed": _failure({"site": f"{nodes[0]['site']} and {len(nodes) - 1} more"}, error)}


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


def _initial(frame: Mapping[str, Json], handover: Path) -> dict[str, Json]:
    """The state that training starts from with a round's labels, so that the engine's process needs no model of its own."""
    from flwr.app import ArrayRecord, RecordDict

    from fedrelease.client.app import resident_base, resident_model
    from fedrelease.experiment_document import from_document
    from fedrelease.server.local_model import drawn_state
    from fedrelease.simulations.wire import pack

    document, node = frame["experiment"], frame["node"]
    if not isinstance(document, Mapping) or not isinstance(node, Mapping):
        raise EngineError("the first state is asked for without an experiment", value=str(frame)[:80])
    experiment, folder, round = from_document(document), str(node["base"]), int(str(frame["round"]))
    model = resident_model(folder, experiment.model_at(round))
    state = drawn_state(model, resident_base(folder), experiment, round=round)
    return pack(RecordDict({"arrays": ArrayRecord(dict(state))}), handover)


def _line(event: Mapping[str, Json]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _watch(settings: Mapping[str, Json], control: socket.socket, children: dict[int, int]) -> None:
    """Replace workers that die; return when the engine is gone."""
    alive = int(str(settings["alive"]))
    while not select.select([alive], [], [], WATCH_S)[0]:
        died, status = os.waitpid(-1, os.WNOHANG)
        if died in children:
            place = children.pop(died)
            children[_fork(settings, control, place, os.waitstatus_to_exitcode(status))] = place


if __name__ == "__main__":
    main()
