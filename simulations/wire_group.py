"""The answers of several sites that one worker asked at once: their facts as JSON, all their tensors in one safetensors file.

Example::

    reply = pack_group(outcomes, folder)             # in the worker
    for content in unpack_group(reply): ...          # in the engine's process: RecordDict, or why there is none
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedrelease.errors import EngineError, FedreleaseError
from fedrelease.files import Json
from fedrelease.messages import Answer

if TYPE_CHECKING:
    from fedrelease.client.group import Trained

__all__ = ["pack_group", "reason_of", "unpack_group"]

SEPARATOR = "/"


def reason_of(error: Exception) -> str:
    """Why a site did not answer, as the others may read it; the traceback is for the log."""
    return f"{type(error).__name__}: {error.what if isinstance(error, FedreleaseError) else error}"


def pack_group(outcomes: "Sequence[Trained | Answer | Exception]", folder: Path) -> dict[str, Json]:
    """JSON with one entry a site, in order; tensors go into a file in ``folder``, named by the site's place and their names."""
    from fedrelease.client.app import facts_of  # only a worker packs, and has all that this brings

    tensors: dict[str, Tensor] = {}
    entries: list[Json] = []
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Exception):
            entries.append({"failed": reason_of(outcome)})
            continue
        answer, trained = (outcome, {}) if isinstance(outcome, Answer) else outcome
        facts: dict[str, Json] = {kind: dict(record) for kind, record in facts_of(answer).items()}
        entries.append({**facts, "names": list(trained)})
        tensors.update({f"{place}{SEPARATOR}{name}": tensor for name, tensor in trained.items()})
    return {"group": entries, "tensors": _written(tensors, folder)}


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
        with safe_open(str(path), framework="np") as file:
            for place, entry in enumerate(entries):
                names = entry.get("names", [])
                yield _content(entry, {name: file.get_tensor(f"{place}{SEPARATOR}{name}") for name in names})
    finally:
        Path(str(path)).unlink(missing_ok=True)


def _content(entry: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> RecordDict | str:
    if "failed" in entry:
        return str(entry["failed"])
    content = RecordDict({"metrics": MetricRecord(entry["metrics"]), "config": ConfigRecord(entry["config"])})
    if arrays:
        content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return content
