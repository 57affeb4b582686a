"""The spool: accepted updates of the round in progress, on disk before they count.

Example::

    spool = Spool(store_folder / "spool" / "0.1.3", parent="sha256:...")
    spool.accept("amazon", delta, answer)          # durable when it returns
    spool.accepted()                               # {'amazon'}: need not be asked again after a crash
    strategy.aggregate(parent, spool.updates(), memory)
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fedrelease.errors import UpdateRefused
from fedrelease.files import Json, canonical_bytes, digest_bytes, digest_file, write_durably
from fedrelease.messages import Answer, answer_text, parse_answer
from fedrelease.update import StateFile, Update, state_bytes

__all__ = ["Spool", "sweep_spools"]


def sweep_spools(folder: Path, *, unfinished: frozenset[str], keep: bool) -> None:
    """Tidy the folder of all spools after a killed run: half-written files go, and so, unless ``keep``, do finished rounds."""
    for spool in folder.iterdir() if folder.is_dir() else ():
        for torn in spool.glob(".*.tmp"):
            torn.unlink(missing_ok=True)
        if spool.name not in unfinished and not keep:
            shutil.rmtree(spool, ignore_errors=True)


class Spool:
    """One round's folder: ``<site>.safetensors`` and, written after it, ``<site>.json``, which makes the update count.

    The facts name the parent that the site trained from and the digest of the tensors, and are sealed with their own digest: an
    update of another parent, or one whose files were torn or altered, does not count and is asked for again.
    """

    def __init__(self, folder: Path, *, parent: str) -> None:
        """Name the folder; it is made by the first accepted update."""
        self._folder = folder
        self._parent = parent

    def accept(self, site: str, delta: Mapping[str, Tensor], answer: Answer) -> Update:
        """Write a screened update; it counts when this returns."""
        data = state_bytes(delta)
        facts: dict[str, Json] = {
            "parent": self._parent,
            "sha256": digest_bytes(data),
            "size": len(data),
            "answer": answer_text(answer),
        }
        write_durably(self._tensors(site), data)
        write_durably(self._facts(site), canonical_bytes({**facts, "seal": _seal(facts)}))
        return self._read(site)

    def accepted(self) -> frozenset[str]:
        """The sites whose updates count."""
        return frozenset(update.site for update in self.updates())

    def updates(self) -> tuple[Update, ...]:
        """Updates that count, in the order of their sites' names; tensors are read from disk when asked for."""
        names = sorted(path.name.removesuffix(".json") for path in self._folder.glob("*.json"))
        return tuple(update for site in names if (update := self._read_if_sound(site)) is not None)

    def drop(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tensors(self, site: str) -> Path:
        return self._folder / f"{site}.safetensors"

    def _facts(self, site: str) -> Path:
        return self._folder / f"{site}.json"

    def _read_if_sound(self, site: str) -> Update | None:
        try:
            return self._read(site)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UpdateRefused):
            return None

    def _read(self, site: str) -> Update:
        facts = json.loads(self._facts(site).read_bytes())
        seal = facts.pop("seal")
        if (
            seal != _seal(facts)
            or facts["parent"] != self._parent
            or facts["sha256"] != digest_file(self._tensors(site))
        ):
            raise UpdateRefused("the spooled update does not belong here", value=site)
        answer = parse_answer(facts["answer"])
        return Update(
            site=site,
            tensors=StateFile(self._tensors(site)),
            examples=answer.examples,
            metrics=answer.metrics,
            receipt=answer.receipt,
            digest=facts["sha256"],
            size_bytes=int(facts["size"]),
        )


def _seal(facts: Mapping[str, Json]) -> str:
    return digest_bytes(canonical_bytes(facts))
