"""What a store still refers to: all that a sweep must leave and a copy must take.

Example::

    references(root)               # sha256s of manifests, files, generations, and of what their attachments name
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fedrelease import facts
from fedrelease.files import digest_bytes
from fedrelease.manifest import check_digest
from fedrelease.server import channels
from fedrelease.server.attachments import attachments
from fedrelease.server.intent import announced
from fedrelease.server.packed import packed_facts, packed_path
from fedrelease.server.release import load, versions

__all__ = ["keyframe_of", "references"]

_SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def references(root: Path) -> frozenset[str]:
    """Every sha256 that something refers to: follow everything from the committed versions, the channels and a publish under way.

    An attachment may name blobs, as a variant does, and those may have attachments too: whatever reads as a sha256 is followed.

    Raises:
        DamagedRelease: a manifest or a generation cannot be read, so that nobody knows what it refers to.
    """
    found, new = set[str](), {*_released(root), *_generations(root), *_under_way(root)}
    while new:
        found |= new
        named = {name for sha256 in new for name in _attached(root, sha256)}
        new = (named | {keyframe for sha256 in new if (keyframe := keyframe_of(root, sha256)) is not None}) - found
    return frozenset(found)


def _released(root: Path) -> Iterator[str]:
    for version in versions(root):
        release = load(root, version)
        yield check_digest(release.digest)
        yield from (file.sha256 for file in release.manifest.files)


def _generations(root: Path) -> Iterator[str]:
    return (sha256 for sha256, _ in channels.named_generations(root))


def _under_way(root: Path) -> Iterator[str]:
    meant = announced(root)
    if meant is not None:
        yield from [check_digest(meant.entry.digest)] if meant.entry.digest else []
        yield from [digest_bytes(facts.to_bytes(meant.moved))] if meant.moved else []


def _attached(root: Path, sha256: str) -> Iterator[str]:
    for attachment in attachments(root, f"sha256:{sha256}"):
        yield from (name.decode() for name in _SHA256.findall(attachment.path.read_bytes()))


def keyframe_of(root: Path, sha256: str) -> str | None:
    """What the packed form of a blob stands on, where it is packed and stands on another.

    Raises:
        DamagedRelease: it cannot be read.
    """
    return packed_facts(root, sha256).keyframe if packed_path(root, sha256).is_file() else None
