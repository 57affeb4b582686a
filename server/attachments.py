"""What came later about a release: ``attach/<hex of its digest>/<kind>.<first 8 hex digits of the bytes' sha256>``.

A manifest never changes, so signatures, reports of gates and cards lie beside it. Whatever has a digest may have some; each
generation of the channels has its signature here too.

Example::

    put_attachment(root, release.digest, "gate-report", data)          # by the writer; or store.attach(...)
    newest_attachment(root, release.digest, "gate-report")             # data
    [attachment.kind for attachment in attachments(root, release.digest)]
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes, sync_folder
from fedrelease.manifest import check_digest
from fedrelease.server.blobs import replace_durably

__all__ = ["Attachment", "attachments", "attachments_folder", "newest_attachment", "put_attachment"]

DIGITS = 8
_NAME = re.compile(r"([a-z][a-z0-9-]{0,31})\.([0-9a-f]{8})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """One file about a digest. ``name`` is its path below the store."""

    kind: str
    path: Path

    @property
    def name(self) -> str:
        """POSIX path below the store."""
        return "/".join(self.path.parts[-3:])

    def read(self) -> bytes:
        """The bytes, checked against the digits in the name.

        Guarantees: an accident is found (one in 4 billion is not). The name proves nothing about who wrote the bytes.

        Raises:
            DamagedRelease: missing, unreadable, or not the bytes that were attached; ``value`` is the name.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DamagedRelease(f"{self.name} cannot be read: {error.strerror}", value=self.name) from error
        if digest_bytes(data)[:DIGITS] != self.path.name.rpartition(".")[2]:
            raise DamagedRelease(f"{self.name} does not have the bytes that were attached", value=self.name)
        return data


def put_attachment(root: Path, digest: str, kind: str, data: bytes) -> Attachment:
    """Keep bytes about a digest, durably. The caller holds the store's lock.

    Guarantees: the file appears whole or not at all. The same bytes again change nothing, not even which is the newest; a
    damaged file is replaced.

    Raises:
        StoreError: ``digest`` is none, or ``kind`` is no word.
    """
    folder, name = attachments_folder(root, digest), f"{kind}.{digest_bytes(data)[:DIGITS]}"
    path = folder / name
    if _NAME.fullmatch(name) is None:
        raise StoreError("no kind of attachment", value=kind, rule="a word in lower case, such as gate-report")
    if not path.is_file() or path.read_bytes() != data:
        for made in (folder.parent, folder):
            made.mkdir(exist_ok=True)
            sync_folder(made.parent)
        replace_durably(root, path, data, time_ns=_next_time(folder))
    return Attachment(kind=kind, path=path)


def attachments(root: Path, digest: str, kind: str | None = None) -> tuple[Attachment, ...]:
    """All attachments of a digest, or those of one kind, oldest first; needs no lock.

    The order is that of the files' times of change: a copy of the store that does not keep times loses it.
    """
    folder = attachments_folder(root, digest)
    paths = [path for path in folder.glob("*.*") if _NAME.fullmatch(path.name)]
    found = [Attachment(kind=path.name.partition(".")[0], path=path) for path in sorted(paths, key=_age)]
    return tuple(attachment for attachment in found if kind in (None, attachment.kind))


def newest_attachment(root: Path, digest: str, kind: str) -> bytes | None:
    """The checked bytes that came last; None where there are none.

    Raises:
        DamagedRelease: they are not what was attached.
    """
    found = attachments(root, digest, kind)
    return found[-1].read() if found else None


def attachments_folder(root: Path, digest: str) -> Path:
    """Where the attachments of a digest lie, if there are any."""
    return root / "attach" / check_digest(digest)


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def _next_time(folder: Path) -> int:
    """Now, but later than all that is there: clocks are coarse, and some go back."""
    return max([time.time_ns(), *(path.stat().st_mtime_ns + 1 for path in folder.iterdir())])
