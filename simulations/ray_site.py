"""A site in a Ray actor: Flower's simulation knows only the number of a node, and this looks up which site that is.

Example (the Ray engine does this)::

    RaySettings(nodes=({"site": "amazon", ...},), experiment=experiment).write(folder)     # and FEDRELEASE_RAY_RUN=folder
    run_simulation(server_app, app, num_supernodes=1)

An actor finds the run's folder in its environment, so that Ray moves nothing of ours but a reference to ``app``. It ends as soon
as the settings are gone from there: Flower's simulation cannot interrupt a site that trains.
"""

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY, ErrorCode

from fedrelease.errors import EngineError, FedreleaseError
from fedrelease.experiment import Experiment
from fedrelease.experiment_document import from_document, to_document
from fedrelease.simulations.ray_cluster import FOLDER, LOG

__all__ = ["ASK", "READY", "RaySettings", "app"]

SETTINGS = "settings.json"
ASK, READY = "ask", "ready"
WATCH_S = 0.5
LOGGER = logging.getLogger("fedrelease.ray")


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """What every actor of a run needs to know. ``nodes`` are the sites' node configurations, by partition."""

    nodes: Sequence[Mapping[str, str]]
    experiment: Experiment

    def write(self, folder: Path) -> None:
        """Leave them in the run's folder."""
        document = {"nodes": [dict(node) for node in self.nodes], "experiment": to_document(self.experiment)}
        (folder / SETTINGS).write_text(json.dumps(document), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> "RaySettings":
        """Those that :meth:`write` left.

        Raises:
            EngineError: this machine does not see the folder.
        """
        try:
            document = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        except OSError as error:
            raise _unseen(folder) from error
        return RaySettings(nodes=document["nodes"], experiment=from_document(document["experiment"]))

    @staticmethod
    def withdraw(folder: Path) -> None:
        """Take them away: every actor of the run ends, in the middle of its work too."""
        (folder / SETTINGS).unlink(missing_ok=True)


app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
def _answer(message: Message, context: Context) -> Message:
    """What the site's own ClientApp replies, or what it died of: the text for all, the traceback in the log."""
    site = "?"
    try:
        settings = _settings(os.environ[FOLDER])
        node = settings.nodes[int(str(context.node_config[PARTITION_ID_KEY]))]
        site = node["site"]
        if message.content.config_records["config"].get(ASK) == READY:
            return _ready(message, node, settings.experiment)
        return _reply(message, node)
    except Exception as error:  # a site may fail in any way; the others go on
        LOGGER.error("site %s failed\n%s", site, traceback.format_exc())
        what = error.what if isinstance(error, FedreleaseError) else str(error)
        reason = f"{type(error).__name__}: {what}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


@lru_cache(maxsize=1)
def _settings(name: str) -> RaySettings:
    """Read once in a process, which from then on has one thread for numbers, a log, and an eye on the run's end."""
    folder = Path(name)
    settings = RaySettings.read(folder)
    import torch

    torch.set_num_threads(1)
    handler = logging.FileHandler(folder.parent / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    threading.Thread(target=_end_with, args=(folder / SETTINGS,), daemon=True).start()
    return settings


def _end_with(file: Path) -> None:
    while file.exists():
        time.sleep(WATCH_S)
    os._exit(0)


def _ready(message: Message, node: Mapping[str, str], experiment: Experiment) -> Message:
    """Load what every message needs, once this machine is known to see the sites' data."""
    from fedrelease.client.app import resident_model

    for name in ("base", "data"):
        if not Path(node[name]).is_dir():
            raise _unseen(Path(node[name]))
    resident_model(node["base"], experiment.model_at(0))
    return Message(RecordDict({"config": ConfigRecord({"site": node["site"]})}), reply_to=message)


def _unseen(path: Path) -> EngineError:
    return EngineError(f"{os.uname().nodename} does not see {path}")


def _reply(message: Message, node: Mapping[str, str]) -> Message:
    from fedrelease.client.app import app as site

    return site(message, Context(run_id=1, node_id=1, node_config={**node}, state=RecordDict(), run_config={}))
