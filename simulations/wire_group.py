"""The answers of several sites that one worker asked at once: their facts as JSON, their tensors stacked in one safetensors file.

Example::

    reply = pack_group(outcomes, folder)             # in the worker
    for content in unpack_group(reply): ...          # in the engine's process: RecordDict, or why there is none
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from fedrelease.errors import EngineError, FedreleaseError
from fedrelease.files import Json
from fedrelease.messages import Answer
from fedrelease.server.arrays import array_of

if TYPE_CHECKING:
    from fedrelease.client.group import Trained

__all__ = ["pack_group", "reason_of", "unpack_group"]


def reason_of(error: Exception) -> str:
    """Why a site did not answer, as the others may read it; the traceback is for the log."""
    return f"{type(error).__name__}: {error.what if isinstance(error, FedreleaseError) else error}"


def pack_group(outcomes: "Sequence[Trained | Answer | Exception]", folder: Path) -> dict[str, Json]:
    """JSON with one entry a site, in order; each tensor of all that trained goes, stacked, into a file in ``folder``.

    Sites that are asked at once train one model, so that their tensors have the same names and shapes.
    """
    trained: list[Mapping[str, Tensor]] = []
    entries = [_entry(outcome, trained) for outcome in outcomes]
    stacks = {name: torch.stack([one[name] for one in trained]) for name in (trained[0] if trained else ())}
    return {"group": entries, "tensors": _written(stacks, folder)}


def _entry(outcome: "Trained | Answer | Exception", trained: list[Mapping[str, Tensor]]) -> Json:
    """One site's facts; what it trained is added to ``trained``, and its place there told."""
    from fedrelease.client.app import facts_of  # only a worker packs, and has all that this brings

    if isinstance(outcome, Exception):
        return {"failed": reason_of(outcome)}
    if isinstance(outcome, Answer):
        return {kind: dict(record) for kind, record in facts_of(outcome).items()}
    trained.append(outcome[1])
    facts: dict[str, Json] = {kind: dict(record) for kind, record in facts_of(outcome[0]).items()}
    return {**facts, "place": len(trained) - 1}


def _written(tensors: Mapping[str, Tensor], folder: Path) -> str | None:
    if not tensors:
        return None
    path = folder / f"{uuid4().hex}.safetensors"
    try:
        save_file(dict(tensors), str(path))
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        hint = "free some space there, then run the same command again: it goes on where it stopped"
        raise EngineError(f"tensors cannot be handed over: {error}", value=str(folder), hint=hint) from error
    return str(path)


def unpack_group(reply: Mapping[str, Json]) -> Iterator[RecordDict | str]:
    """Each site's content, or why there is none, in order; the file is removed when the last was taken."""
    entries, path = reply["group"], reply["tensors"]
    if not isinstance(entries, list):
        raise EngineError("a worker sent something else than answers", value=type(entries).__name__)
    if path is None:
        yield from (_content(entry, {}) for entry in entries)
        return
    try:
        stacks = load_file(str(path))
        for entry in entries:
            place = entry.get("place")
            yield _content(entry, {} if place is None else {name: stack[place] for name, stack in stacks.items()})
    finally:
        Path(str(path)).unlink(missing_ok=True)


def _content(entry: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> RecordDict | str:
    if "failed" in entry:
        return str(entry["failed"])
    content = RecordDict({"metrics": MetricRecord(entry["metrics"]), "config": ConfigRecord(entry["config"])})
    companions = {name for name in arrays if "/" in name}
    for kind, names in (("arrays", arrays.keys() - companions), ("companions", companions)):
        if names:
            content[kind] = ArrayRecord({name: array_of(value) for name, value in arrays.items() if name in names})
    return content
