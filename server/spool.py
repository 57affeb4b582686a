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

from safetensors import SafetensorError
from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.files import Json, canonical_bytes, digest_bytes, write_durably
from fedrelease.messages import Answer, answer_text, parse_answer
from fedrelease.update import StateFile, Update, digest_and_size, forget_open_files, stacked_pieces, state_digest

__all__ = ["Screened", "Spool", "sweep_spools"]

UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, UpdateRefused, SafetensorError,
)  # fmt: skip
"""What a file that was torn or altered may raise: it does not count, and its sites are asked again."""


@dataclass(frozen=True, kw_only=True)
class Screened:
    """One site's update that passed every check; ``sent_bytes`` of what travelled, where that was another form of it."""

    site: str
    delta: Mapping[str, Tensor]
    answer: Answer
    sent_bytes: int | None = None

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

    ``<site>.safetensors`` has the tensors of all of them, stacked in the order of their sites' names; ``<site>.json``, written
    after it, makes them count: it names the parent that the sites trained from and the digest of each update, and is sealed with
    its own digest. An update of another parent, or one whose files were torn or altered, does not count and is asked for again.

    What a process finds is checked byte by byte; what it has flushed to the disk itself is not read again for that.
    """

    def __init__(self, folder: Path, *, parent: str) -> None:
        """Name the folder; it is made by the first accepted update."""
        self._folder = folder
        self._parent = parent
        self._found: dict[str, Update] | None = None

    @property
    def folder(self) -> Path:
        """Where its files lie, once there are any."""
        return self._folder

    def accept(self, updates: Sequence[Screened]) -> None:
        """Write screened updates; they count when this returns, all of them."""
        ordered = sorted(updates, key=lambda update: update.site)
        path = self._folder / f"{updates[0].site}.safetensors"
        written = {update.site: _facts(update) for update in ordered}
        facts: dict[str, Json] = {"parent": self._parent, "updates": written}
        write_durably(path, stacked_pieces([update.delta for update in ordered]))
        before = self._all()
        write_durably(path.with_suffix(".json"), canonical_bytes({**facts, "seal": _seal(facts)}))
        before.update({u.site: _as_update(path, row, u, written[u.site]) for row, u in enumerate(ordered)})

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
        except UNREADABLE:
            return
        for row, (site, told) in enumerate(sorted(several)):
            try:
                yield _read(path.with_suffix(".safetensors"), row, site, told)
            except UNREADABLE:
                continue


def _as_update(path: Path, row: int, update: Screened, facts: Mapping[str, Json]) -> Update:
    """What was written a moment ago, as it will be read."""
    return Update(
        site=update.site,
        tensors=StateFile(path, row=row, names=sorted(update.delta)),
        examples=update.answer.examples,
        metrics=update.answer.metrics,
        receipt=update.answer.receipt,
        digest=str(facts["sha256"]),
        size_bytes=int(str(facts["size"])),
    )


def _facts(update: Screened) -> dict[str, Json]:
    digest, size = digest_and_size(update.delta)
    sent = size if update.sent_bytes is None else update.sent_bytes
    return {"sha256": digest, "size": sent, "answer": answer_text(update.answer)}


def _read(path: Path, row: int, site: str, facts: Mapping[str, str]) -> Update:
    tensors = StateFile(path, row=row)
    if state_digest(tensors) != facts["sha256"]:
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
