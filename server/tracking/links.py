"""The link between a release and its run in a tracker: an attachment beside the release, which no manifest knows of.

Example::

    keep_link(root, release.digest, Link(tracker="mlflow", run="3f2a9c...", where="../mlruns"))    # by the writer
    links_of(release)                                                                              # (Link(...),)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease
from fedrelease.server.attachments import attachments, put_attachment
from fedrelease.server.release import Release, load, versions

__all__ = ["KIND", "Link", "keep_link", "last_link", "links_of", "place_of"]

KIND = "tracking"


@dataclass(frozen=True, kw_only=True)
class Link:
    """A run of a tracker that has the numbers of the release. ``where``: a folder as seen from the store's, or an address."""

    tracker: str
    run: str
    where: str


def keep_link(root: Path, digest: str, link: Link) -> None:
    """Keep it beside the release. The caller holds the store's lock."""
    put_attachment(root, digest, KIND, facts.to_bytes(link))


def links_of(release: Release) -> tuple[Link, ...]:
    """Of a release, oldest first; what is damaged or from elsewhere is left to ``fedrelease verify``."""
    return tuple(_links(release.root, release.digest))


def _links(root: Path, digest: str) -> Iterator[Link]:
    for attachment in attachments(root, digest, KIND):
        try:
            yield facts.from_bytes(Link, attachment.read())
        except DamagedRelease:
            continue


def last_link(root: Path, *, tracker: str, where: str) -> Link | None:
    """The run that the newest release is in that was tracked there; the next release goes on with it."""
    for version in reversed(versions(root)):
        for link in reversed(links_of(load(root, version))):
            if (link.tracker, link.where) == (tracker, where):
                return link
    return None


def place_of(link: Link, root: Path) -> str:
    """The folder as seen from the current one, or the address."""
    return link.where if "://" in link.where else os.path.relpath(root / link.where)
