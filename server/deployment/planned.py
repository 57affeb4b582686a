"""What this server's run will ask of sites: written down before the first of them is asked, and told to admitted ones.

Example::

    write_planned(server, experiment=document, base=folder)        # when `server start` begins
    told_plan(server)                                              # {"experiment": {...}, "base": "5ae0..."}
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from fedrelease.errors import ModelError
from fedrelease.files import Json, write_durably
from fedrelease.models.bases import open_base
from fedrelease.server.deployment.folder import Server

__all__ = ["told_plan", "write_planned"]


def write_planned(server: Server, *, experiment: str, base: Path) -> None:
    """Say which experiment, as JSON, this server is about from now on, and where its base lies."""
    told = {"experiment": json.loads(experiment), "base": str(base.absolute())}
    write_durably(_file(server), json.dumps(told).encode())


def told_plan(server: Server) -> Mapping[str, Json]:
    """The experiment as sites are sent it in each round, and the digest of its base; ``None`` for what is not known."""
    try:
        found = json.loads(_file(server).read_bytes())
    except FileNotFoundError:
        return {"experiment": None, "base": None}
    return {"experiment": found["experiment"], "base": _digest(found["base"])}


@lru_cache(maxsize=2)
def _digest(folder: str) -> str | None:
    """Of a base's files, which are read once: a server has one base."""
    try:
        return open_base(folder, cache=Path(folder)).digest
    except ModelError:
        return None  # `server start` says what is wrong with it


def _file(server: Server) -> Path:
    return server.folder / "planned.json"
