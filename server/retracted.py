"""What a rebuilt release says about itself: ``retraction.json`` among its files.

Example::

    told = retraction_of(release)                            # None for a release of an ordinary round
    told.sites, told.replaces.version                        # (('north',), '0.1.2')
"""

from dataclasses import dataclass

from fedrelease import facts
from fedrelease.manifest import Manifest
from fedrelease.server.channels import Pointer
from fedrelease.server.release import Release

__all__ = ["FILE", "Retraction", "is_rebuilt", "retraction_bytes", "retraction_of"]

FILE = "retraction.json"


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """Whose updates a release is made without.

    Attributes:
        sites: all of them, sorted; a second retraction adds to the first.
        replaces: the release that this one stands for.
        round: the release of the round that was run, in whose spool the updates lie; it differs from ``replaces`` where that was
            rebuilt itself.
        line: the end of the line that is rebuilt. The release that replaces it ends the retraction.
        actor, reason: who retracted the site, and why.
    """

    sites: tuple[str, ...]
    replaces: Pointer
    round: Pointer
    line: Pointer
    actor: str
    reason: str | None


def is_rebuilt(manifest: Manifest) -> bool:
    """Whether the release was made from kept updates, and not by a round."""
    return any(file.path == FILE for file in manifest.files)


def retraction_of(release: Release) -> Retraction | None:
    """What a rebuilt release says; None for any other.

    Raises:
        DamagedRelease: the file is not what was released.
    """
    return facts.from_bytes(Retraction, release.read(FILE)) if is_rebuilt(release.manifest) else None


def retraction_bytes(told: Retraction) -> bytes:
    """Canonical JSON."""
    return facts.to_bytes(told)
