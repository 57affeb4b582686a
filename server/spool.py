"""The spool: accepted updates of the round in progress, on disk before they count.

Example::

    spool = Spool(store_folder / "spool" / "0.1.3", parent="sha256:...")
    spool.accept([Screened(site="amazon", delta=delta, answer=answer)])          # durable when it returns
    spool.accepted()                               # {'amazon'}: need not be asked again after a crash
    strategy.aggregate(parent, spool.updates(), memory)
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.files import Json, canonical_bytes, digest_bytes, write_durably
from fedrelease.messages import Answer, answer_text, parse_answer
from fedrelease.update import StateFile, Update, forget_open_files, state_bytes

__all__ = ["Screened", "Spool", "sweep_spools"]

SEPARATOR = "/"


@dataclass(frozen=True, kw_only=True)
class Screened:
    """One site's update that passed every check."""

    site: str
    delta: Mapping[str, Tensor]
    answer: Answer

    @property
    def size_bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.delta.values())


def sweep_spools(folder: Path, *, unfinished: frozenset[str], keep: bool) -> None:
    """Tidy the folder of all spools after a killed run: half-written files go, and so, unless ``keep``, do finished rounds."""
    for spool in folder.iterdir() if folder.is_dir() else ():
        for torn in spool.glob(".*.tmp"):
            torn.unlink(missing_ok=True)
        if spool.name not in unfinished and not keep:
            shutil.rmtree(spool, ignore_errors=True)


class Spool:
    """One round's folder. Updates that arrived together share two files, named by the first of their sites.

    ``<site>.safetensors`` has the tensors of all of them, each name with its site before it; ``<site>.json``, written after it,
    makes them count: it names the parent that the sites trained from and the digest of each update, and is sealed with its own
    digest. An update of another parent, or one whose files were torn or altered, does not count and is asked for again.

    What a process finds is checked byte by byte; what it has flushed to the disk itself is not read again for that.
    """

    def __init__(self, folder: Path, *, parent: str) -> None:
        """Name the folder; it is made by the first accepted update."""
        self._folder = folder
        self._parent = parent
        self._found: dict[str, Update] | None = None

    def accept(self, updates: Sequence[Screened]) -> None:
        """Write screened updates; they count when this returns, all of them."""
        stem = updates[0].site
        written = {update.site: _facts(update) for update in updates}
        facts: dict[str, Json] = {"parent": self._parent, "updates": written}
        tensors = {
            f"{update.site}{SEPARATOR}{name}": tensor.contiguous()
            for update in updates
            for name, tensor in sorted(update.delta.items())
        }
        write_durably(self._folder / f"{stem}.safetensors", save(tensors))
        before = self._all()
        write_durably(self._folder / f"{stem}.json", canonical_bytes({**facts, "seal": _seal(facts)}))
        path = self._folder / f"{stem}.safetensors"
        before.update({update.site: _as_update(path, update, written[update.site]) for update in updates})

    def accepted(self) -> frozenset[str]:
        """The sites whose updates count."""
        return frozenset(self._all())

    def updates(self) -> tuple[Update, ...]:
        """Updates that count, in the order of their sites' names; tensors are read from disk when asked for."""
        found = self._all()
        return tuple(found[site] for site in sorted(found))

    def _all(self) -> dict[str, Update]:
        if self._found is None:
            paths = sorted(self._folder.glob("*.json"))
            self._found = {update.site: update for path in paths for update in self._read_if_sound(path)}
        return self._found

    def drop(self) -> None:
        """Remove the folder."""
        forget_open_files()
        self._found = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_if_sound(self, path: Path) -> Iterator[Update]:
        try:
            facts = json.loads(path.read_bytes())
            seal = facts.pop("seal")
            if seal != _seal(facts) or facts["parent"] != self._parent:
                return
            several = facts["updates"].items()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        for site, told in several:
            try:
                yield _read(path.with_suffix(".safetensors"), site, told)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UpdateRefused):
                continue


def _as_update(path: Path, update: Screened, facts: Mapping[str, Json]) -> Update:
    """What was written a moment ago, as it will be read."""
    return Update(
        site=update.site,
        tensors=StateFile(path, prefix=f"{update.site}{SEPARATOR}", names=sorted(update.delta)),
        examples=update.answer.examples,
        metrics=update.answer.metrics,
        receipt=update.answer.receipt,
        digest=str(facts["sha256"]),
        size_bytes=int(str(facts["size"])),
    )


def _facts(update: Screened) -> dict[str, Json]:
    data = state_bytes(update.delta)
    return {"sha256": digest_bytes(data), "size": len(data), "answer": answer_text(update.answer)}


def _read(path: Path, site: str, facts: Mapping[str, str]) -> Update:
    tensors = StateFile(path, prefix=f"{site}{SEPARATOR}")
    if digest_bytes(state_bytes(tensors)) != facts["sha256"]:
        raise UpdateRefused("the spooled update does not belong here", value=site)
    answer = parse_answer(facts["answer"])
    return Update(
        site=site,
        tensors=tensors,
        examples=answer.examples,
        metrics=answer.metrics,
        receipt=answer.receipt,
        digest=facts["sha256"],
        size_bytes=int(facts["size"]),
    )


def _seal(facts: Mapping[str, Json]) -> str:
    return digest_bytes(canonical_bytes(facts))
