"""Push a store to another place, and pull one from there: a folder, or a bucket of S3. What is there already does not travel.

Example::

    push(Store.open(Path("releases")), "s3://models/four-sites")
    pull("s3://models/four-sites", Path("elsewhere"))
"""

from pathlib import Path

from fedrelease.errors import StoreError
from fedrelease.server import layout
from fedrelease.server.blobs import disk_errors
from fedrelease.server.bucket import Bucket, is_bucket
from fedrelease.server.contents import PLAIN, Pointers, Source, lines_ahead, pointers_of
from fedrelease.server.replay import Copied, FolderSource, missing, replay, to_travel
from fedrelease.server.store import Store

__all__ = ["pull", "push"]


def push(store: Store, place: str, *, dry_run: bool = False) -> Copied:
    """Bring ``place`` up to the store; ``dry_run`` counts only.

    Guarantees: a generation that the place has and the store has not is never lost: then nothing but files by digest travelled.

    Raises:
        StoreBusy: somebody writes to either.
        StoreError: the place is ahead or went another way, or refuses.
        DamagedRelease: the store lacks something of its own.
    """
    if not is_bucket(place):
        _check_apart(store.folder, Path(place))
    with store.lock():
        if is_bucket(place):
            return _upload(store.folder, Bucket.open(place), place, dry_run=dry_run)
        return _bring(FolderSource(store.folder), Path(place), told=str(store.folder), dry_run=dry_run, pushing=True)


def pull(place: str, folder: Path, *, dry_run: bool = False) -> Copied:
    """Bring the store in ``folder``, which is made if need be, up to ``place``; ``dry_run`` counts only.

    Raises:
        StoreBusy: somebody writes to it.
        StoreError: ``place`` is no store, the two went different ways, or the disk refuses.
        DamagedRelease: what came is not what its name promises.
    """
    if is_bucket(place):
        return _bring(Bucket.open(place), folder, told=place, dry_run=dry_run)
    _check_apart(Path(place), folder)
    layout.check(Path(place))
    return _bring(FolderSource(Path(place)), folder, told=place, dry_run=dry_run)


def _check_apart(one: Path, other: Path) -> None:
    if one.resolve() == other.resolve():
        raise StoreError("a store is not copied to itself", value=str(other), hint="name another folder")


def _bring(source: Source, folder: Path, *, told: str, dry_run: bool, pushing: bool = False) -> Copied:
    if dry_run:
        return _counted(source, folder, told, pushing=pushing)
    store = Store.create_or_open(folder)
    with store.lock():
        if pushing:
            _check_behind(source.pointers() or Pointers(), pointers_of(folder), told, str(folder))
        return replay(source, store, told=told)


def _counted(source: Source, folder: Path, told: str, *, pushing: bool) -> Copied:
    """What would travel."""
    theirs, ours = source.pointers() or Pointers(), Pointers()
    if (folder / "store.json").exists():
        layout.check(folder)
        ours = pointers_of(folder)
    if pushing:
        _check_behind(theirs, ours, told, str(folder))
    lines = lines_ahead(theirs, ours, us=told, them=str(folder))
    wanted = to_travel(missing(source.contents(), folder), forward=bool(lines))
    generation = max(theirs.generation, ours.generation)
    return Copied(files=len(wanted), size=sum(wanted.values()), lines=len(lines), generation=generation)


def _check_behind(ours: Pointers, theirs: Pointers, us: str, them: str) -> None:
    """Refuse to push to a place that is ahead: it would have to go back."""
    if lines_ahead(ours, theirs, us=us, them=them):
        return
    if len(theirs.lines) > len(ours.lines) or theirs.generation > ours.generation:
        raise StoreError(
            f"{them} is at generation {theirs.generation} and {us} only at generation {ours.generation}",
            value=them,
            rule="a push never takes a generation away",
            hint=f"fedrelease pull {them}",
        )


def _upload(root: Path, bucket: Bucket, place: str, *, dry_run: bool) -> Copied:
    ours, (theirs, tag) = pointers_of(root), bucket.look()
    _check_behind(ours, theirs or Pointers(), str(root), place)
    lines = lines_ahead(ours, theirs or Pointers(), us=str(root), them=place)
    wanted = to_travel(_lacking(root, bucket), forward=bool(lines))
    copied = Copied(files=len(wanted), size=sum(wanted.values()), lines=len(lines), generation=ours.generation)
    if dry_run or not (wanted or lines):
        return copied
    with disk_errors(root):
        for name in wanted:
            bucket.send(name, root / name)
    if lines and not bucket.swap(ours, tag):
        _lost_race(ours, bucket, root, place)
    return copied


def _lacking(root: Path, bucket: Bucket) -> dict[str, int]:
    """Names with other bytes there, or none; a blob that is there in another form is not sent again."""
    there = bucket.contents()
    forms = {name.rpartition("/")[2] for name in there if name.startswith(("blobs/", "packed/"))}
    wanted = FolderSource(root).contents()
    same = {name for name, size in wanted.items() if there.get(name) == size and name not in PLAIN}
    blobs = {name for name in wanted if name.startswith(("blobs/", "packed/")) and name.rpartition("/")[2] in forms}
    return {name: size for name, size in sorted(wanted.items()) if name not in same | blobs}


def _lost_race(ours: Pointers, bucket: Bucket, root: Path, place: str) -> None:
    """Somebody pushed at the same time: the very same, or something else, which is told as any other refusal."""
    theirs = bucket.pointers() or Pointers()
    if theirs != ours:
        _check_behind(ours, theirs, str(root), place)
        raise StoreError(
            f"somebody pushed generation {theirs.generation} to {place} meanwhile; this is generation {ours.generation}",
            value=place,
            rule="one push wins, and nothing was lost",
            hint="push again",
        )
