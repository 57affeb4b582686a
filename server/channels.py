"""``channels.json``: named pointers to releases, moved together in one atomic replace. Every generation of it is kept.

Example::

    moved = read(root).then({"stable": pointer}, Move(verb="promote", actor="ada", reason="2 weeks in beta", time=utc_now()))
    write(root, moved)                                     # the caller holds the store's lock
    [one.generation for one in generations(root)]          # [3, 2, 1]: newest first, each from the digest in the one after it
    [pointer.version for pointer in served(root, "stable")]            # ['0.1.1', '0.2.1']: what a rollback goes back through
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedrelease import facts
from fedrelease.errors import DamagedRelease, StoreError
from fedrelease.files import digest_bytes, write_durably
from fedrelease.manifest import check_digest, check_sha256, parse_version
from fedrelease.server.blobs import put_blob, read_blob

__all__ = [
    "CHANNELS",
    "FILE",
    "VERBS",
    "Channels",
    "FirstPointed",
    "Move",
    "Pointer",
    "Retired",
    "check_channel",
    "first_pointed",
    "generations",
    "named_generations",
    "read",
    "served",
    "write",
]

CHANNELS = ("anchor", "beta", "canary", "candidate", "stable")
VERBS = ("pause", "promote", "publish", "resume", "retire", "rollback", "unyank", "yank")
BACKWARDS = ("rollback", "yank")
FILE = "channels.json"


def check_channel(name: str) -> None:
    """Refuse a name that is no channel.

    Raises:
        StoreError: the name is none of :data:`CHANNELS`.
    """
    if name not in CHANNELS:
        raise StoreError("unknown channel", value=name, rule=f"a channel is one of {', '.join(CHANNELS)}")


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """Where a channel points."""

    version: str
    digest: str

    def __post_init__(self) -> None:
        """Check bounds."""
        parse_version(self.version)
        check_digest(self.digest)


@dataclass(frozen=True, kw_only=True)
class Retired:
    """What was removed by the rules of retention; the manifests that name it stay.

    Attributes:
        head: the newest release at that time. Releases after it are not meant, even where they have a file with the same bytes.
        files: sha256 of each file, sorted.
        rounds: versions of the rounds whose kept updates went, lowest first.
    """

    head: str
    files: tuple[str, ...]
    rounds: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check bounds."""
        for version in (self.head, *self.rounds):
            parse_version(version)
        for sha256 in self.files:
            check_sha256(sha256)


@dataclass(frozen=True, kw_only=True)
class Move:
    """Who made a generation, how, when (ISO 8601, UTC), and why; and what was retired, where that is what it is for."""

    verb: str
    actor: str
    time: str
    reason: str | None = None
    retired: Retired | None = field(default=None, metadata=facts.LATER)

    def __post_init__(self) -> None:
        """Check bounds."""
        if self.verb not in VERBS:
            raise StoreError("unknown verb", value=self.verb, rule=f"a move is one of {', '.join(VERBS)}")
        if (self.verb == "retire") != (self.retired is not None):
            raise StoreError("who retires says what, and nobody else does", value=self.verb)


@dataclass(frozen=True, kw_only=True)
class Channels:
    """All pointers at one instant.

    Attributes:
        generation: rises by one with every move, so that a replayed old file can be told from a rollback.
        previous: sha256 of the file that this one replaced; that is a blob of the store now.
        paused: channels that neither rounds nor ``promote`` move. yanked: version -> why nobody should be given it any more.
        move: what made this generation; None in generation 0.
    """

    generation: int = 0
    previous: str | None = None
    channels: Mapping[str, Pointer] = field(default_factory=dict)
    paused: tuple[str, ...] = ()
    yanked: Mapping[str, str] = field(default_factory=dict)
    move: Move | None = None

    def __post_init__(self) -> None:
        """Check bounds."""
        for name in (*self.channels, *self.paused):
            check_channel(name)
        for version in self.yanked:
            parse_version(version)

    def pointing_at(self, version: str) -> tuple[str, ...]:
        """The channels that point at a version, sorted."""
        return tuple(sorted(name for name, pointer in self.channels.items() if pointer.version == version))

    def then(
        self,
        targets: Mapping[str, Pointer | None],
        move: Move,
        *,
        paused: tuple[str, ...] | None = None,
        yanked: Mapping[str, str] | None = None,
    ) -> "Channels":
        """The next generation: channels point at other releases, or at none; all of them or none. Itself if nothing changes.

        Raises:
            StoreError: a channel's name is unknown.
        """
        after = {**self.channels, **targets}
        wanted = replace(
            self,
            channels={name: pointer for name, pointer in after.items() if pointer is not None},
            paused=self.paused if paused is None else tuple(sorted(paused)),
            yanked=self.yanked if yanked is None else yanked,
        )
        return self if wanted == self else wanted._after(self, move)

    def again(self, move: Move) -> "Channels":
        """The next generation with the same pointers: for a move that is about something else, and is signed with them."""
        return self._after(self, move)

    def _after(self, before: "Channels", move: Move) -> "Channels":
        digest = digest_bytes(facts.to_bytes(before)) if before.generation else None
        return replace(self, generation=before.generation + 1, previous=digest, move=move)


def read(root: Path) -> Channels:
    """The pointers of the store in ``root``; generation 0 without any when nothing was ever moved.

    Raises:
        DamagedRelease: the file is not what :func:`write` writes.
    """
    try:
        return facts.from_bytes(Channels, (root / FILE).read_bytes())
    except FileNotFoundError:
        return Channels()
    except OSError as error:
        raise DamagedRelease(f"{FILE} cannot be read: {error.strerror}", value=FILE) from error
    except DamagedRelease as error:
        raise DamagedRelease(f"{FILE} is damaged: {error.what}", value=FILE, rule=error.rule) from error


def write(root: Path, moved: Channels) -> None:
    """Replace the pointers; the generation before it becomes a blob first. The caller holds the store's lock.

    Raises:
        StoreError: ``moved`` does not follow from what is there.
    """
    now = read(root)
    before = facts.to_bytes(now) if now.generation else None
    if (moved.generation, moved.previous) != (now.generation + 1, before and digest_bytes(before)):
        raise StoreError("these channels do not follow from those of the store", value=moved.generation)
    if before is not None:
        put_blob(root, before)
    write_durably(root / FILE, facts.to_bytes(moved))


def generations(root: Path) -> Iterator[Channels]:
    """Every generation, newest first.

    Raises:
        DamagedRelease: one is missing, is not what its digest promises, or does not follow from the one before it.
    """
    now = read(root)
    while now.generation:
        yield now
        if (now.previous is None) != (now.generation == 1):
            raise DamagedRelease(f"generation {now.generation} of {FILE} does not follow from another", value=FILE)
        if now.previous is None:
            return
        before = facts.from_bytes(Channels, read_blob(root, check_sha256(now.previous)))
        if before.generation != now.generation - 1:
            raise DamagedRelease(f"generation {now.generation} of {FILE} follows from {before.generation}", value=FILE)
        now = before


def named_generations(root: Path) -> Iterator[tuple[str, Channels]]:
    """Every generation with the sha256 of its bytes, newest first.

    Raises:
        DamagedRelease: as :func:`generations`.
    """
    sha256: str | None = None
    for one in generations(root):
        yield sha256 or digest_bytes(facts.to_bytes(one)), one
        sha256 = one.previous


@dataclass(frozen=True, kw_only=True)
class FirstPointed:
    """The first release that a channel ever pointed at, if any, as all generations tell up to the one with this sha256."""

    pointer: Pointer | None = None
    until: str | None = None


def first_pointed(root: Path, channel: str, known: FirstPointed) -> FirstPointed:
    """What a channel pointed at first, reading only the generations that came after ``known``.

    Each generation carries the digest of the one before it: when the one that is known turns up, so would all below it.

    Raises:
        DamagedRelease: as :func:`generations`.
    """
    newest, first = None, None
    for sha256, one in named_generations(root):
        newest = newest or sha256
        if sha256 == known.until:
            return FirstPointed(pointer=known.pointer or first, until=newest)
        first = one.channels.get(channel, first)
    return FirstPointed(pointer=first, until=newest)


def served(root: Path, channel: str) -> tuple[Pointer, ...]:
    """What a channel points at, last, and the releases below it that it would go back through, oldest first.

    A rollback takes away what it undid: rolling back twice goes two releases back, and never to what was rolled back.
    """
    stack: list[Pointer] = []
    for one in reversed(list(generations(root))):
        pointer = one.channels.get(channel)
        if pointer is None:
            stack.clear()
        elif one.move is not None and one.move.verb in BACKWARDS:
            while stack and stack[-1] != pointer:
                stack.pop()
        elif not stack or stack[-1] != pointer:
            stack.append(pointer)
    return tuple(stack)
