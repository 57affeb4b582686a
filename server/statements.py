"""What is signed: in-toto statements v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).

A release's subjects are its manifest and every file of it; a generation of the channels is its own subject, and its predicate
says which store it is of and how far the log had come. `docs/signatures.md` documents the predicates.

Example::

    data = facts.to_bytes(release_statement(manifest))     # the payload of an envelope
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedrelease.files import digest_bytes
from fedrelease.manifest import Manifest, check_digest

__all__ = [
    "CHANNELS_TYPE",
    "RELEASE_TYPE",
    "ChannelsPredicate",
    "ChannelsStatement",
    "ReleasePredicate",
    "ReleaseStatement",
    "Subject",
    "channels_statement",
    "release_statement",
]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
RELEASE_TYPE = "fedrelease:release/v1"
CHANNELS_TYPE = "fedrelease:channels/v1"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A file: ``digest`` is ``{"sha256": hex}``."""

    name: str
    digest: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ReleasePredicate:
    """Which release it is; ``channels`` are those that it was published to."""

    name: str
    version: str
    verdict: str
    channels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReleaseStatement:
    """Signed by the role ``release``. The fields have the names of the format."""

    _type: str
    subject: tuple[Subject, ...]
    predicateType: str
    predicate: ReleasePredicate


@dataclass(frozen=True, kw_only=True)
class ChannelsPredicate:
    """``store`` is the store's id; ``log`` the sha256 of the last line of the log, or None before the first line."""

    store: str
    generation: int
    log: str | None


@dataclass(frozen=True, kw_only=True)
class ChannelsStatement:
    """Signed by the role ``channel``."""

    _type: str
    subject: tuple[Subject, ...]
    predicateType: str
    predicate: ChannelsPredicate


def release_statement(manifest: Manifest, channels: tuple[str, ...]) -> ReleaseStatement:
    """The statement of a release: the same manifest and channels give the same bytes."""
    files = tuple(_subject(entry.path, entry.sha256) for entry in manifest.files)
    return ReleaseStatement(
        _type=STATEMENT_TYPE,
        subject=(_subject("manifest.json", check_digest(manifest.digest)), *files),
        predicateType=RELEASE_TYPE,
        predicate=ReleasePredicate(
            name=manifest.name, version=manifest.version, verdict=manifest.verdict, channels=channels
        ),
    )


def channels_statement(data: bytes, *, store: str, generation: int, log: str | None) -> ChannelsStatement:
    """The statement of a generation of ``channels.json``, whose bytes are ``data``."""
    return ChannelsStatement(
        _type=STATEMENT_TYPE,
        subject=(_subject("channels.json", digest_bytes(data)),),
        predicateType=CHANNELS_TYPE,
        predicate=ChannelsPredicate(store=store, generation=generation, log=log),
    )


def _subject(name: str, sha256: str) -> Subject:
    return Subject(name=name, digest={"sha256": sha256})
