"""``gc``, ``fsck``, ``repack``, ``push`` and ``pull``: keep a store small, sound, and in more than one place.

Example::

    fedrelease gc                                          # says what would go; --apply removes it
    fedrelease push s3://models/four-sites
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, put, table, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store, print_retired
from fedrelease.files import Json
from fedrelease.manifest import version_key
from fedrelease.wording import plain

if TYPE_CHECKING:
    from fedrelease.server.fsck import Flaw, Found
    from fedrelease.server.repack import Packed, PackStep
    from fedrelease.server.replay import Copied
    from fedrelease.server.retiring import Retirement
    from fedrelease.server.sweep import Sweep

__all__ = ["fsck", "gc", "pull", "push", "repack"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would travel; write nothing.")]


def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; else it is only listed.")] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Leave what is younger, as in 90s, 30m, 24h or 7d.")
    ] = "24h",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Other numbers for this once, as retention.releases=20."),
    ] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """List or remove what nothing refers to any more, and what the experiment's [retention] lets go.

    Blobs and attachments of no release and no generation, spools of finished rounds unless the experiment keeps updates, and
    temporary files. With [retention], weights, memory and kept updates of old releases too, at any age, which is recorded;
    what something still needs stays. Every version, every generation and all that was attached to them stay.
    """
    from fedrelease.server.lifecycle import By
    from fedrelease.server.retiring import retention_of, retire, to_retire
    from fedrelease.server.sweep import grace_seconds, sweep, sweepable

    seconds, opened = grace_seconds(grace), open_store(store, writing=True)
    numbers = retention_of(opened, overrides or ())
    if apply:
        before = sweepable(opened, grace_s=seconds, now=time.time())  # temporary files go as soon as the lock is taken
        with opened.lock():
            rest = sweep(opened, grace_s=seconds, now=time.time())
            gone = retire(opened, numbers, by=By())
        found = before if len(before.leftovers) > len(rest.leftovers) else rest
    else:
        found, gone = sweepable(opened, grace_s=seconds, now=time.time()), to_retire(opened, numbers)
    if as_json:
        leftovers = [asdict(leftover) for leftover in found.leftovers]
        swept: dict[str, Json] = {
            "applied": apply,
            "grace": grace,
            "bytes": found.size,
            "young": found.young,
            "leftovers": leftovers,
        }
        emit_json({**swept, "retention": asdict(numbers), **asdict(gone), "leaving_bytes": gone.size})
    else:
        _print_sweep(found, applied=apply, grace=grace)
        _print_retirement(gone, applied=apply)
        if (found.leftovers or gone.leaving) and not apply:
            to_stdout().print("nothing was removed: fedrelease gc --apply")


def fsck(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without losing anything, then check again.")
    ] = False,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Check a whole store: all that verify checks, and more.

    Also blobs that no release refers to, interrupted publishes and writes, and whether what never changes is read-only. --repair
    finishes what was interrupted, writes lost lines of the log, removes temporary files and makes files read-only again; it
    removes nothing else. Ends with exit code 1 when anything is wrong.
    """
    from fedrelease.errors import DamagedRelease
    from fedrelease.server.fsck import fsck as check
    from fedrelease.server.fsck import mend

    opened = open_store(store, writing=True)
    found, mended = check(opened), list["Flaw"]()
    if repair and any(flaw.mend for flaw in found.flaws):
        before = found
        try:
            mend(opened)
        except DamagedRelease as error:
            to_stdout().print(plain(f"not repaired: {error}")) if not as_json else None
        found = check(opened)
        mended = [flaw for flaw in before.flaws if flaw not in found.flaws]
    if as_json:
        document = {"ok": found.ok, "mended": [asdict(flaw) for flaw in mended], **asdict(found)}
        emit_json({**document, "flaws": [asdict(flaw) for flaw in found.flaws]})
    else:
        _print_found(found, mended)
    if not found.ok:
        raise typer.Exit(1)


def repack(
    apply: Annotated[bool, typer.Option("--apply", help="Pack them; else they are only listed.")] = False,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """List or pack the releases that hold a whole model.

    Every eighth is kept by itself, and of the others only what differs from the one before. No release is lost: a raw file goes
    when its packed form was read back and gave the same bytes, and every command reads packed releases. Adapter releases stay as
    they are.
    """
    from fedrelease.server.repack import repack as pack
    from fedrelease.server.repack import to_pack

    opened, done = open_store(store, writing=True), list["Packed"]()
    if apply:
        with opened.lock():
            steps = to_pack(opened)
            done = list(pack(opened, steps))
    else:
        steps = to_pack(opened)
    if as_json:
        emit_json(_pack_document(steps, done, applied=apply))
    else:
        _print_packed(steps, done, applied=apply)


def push(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A folder, or s3://bucket/prefix.")],
    dry_run: DryRun = False,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Copy a store to another place, or bring a copy up to date.

    Only what is missing there travels; pointers come last. A push that would lose a release or a generation there is refused.
    Run it again after an interruption. S3 needs fedrelease[s3]; credentials come from the environment or AWS's own files.
    """
    from fedrelease.server.transfer import push as copy

    _tell(copy(open_store(store), destination, dry_run=dry_run), destination, dry_run=dry_run, as_json=as_json)


def pull(
    origin: Annotated[str, typer.Argument(metavar="SRC", help="A folder, or s3://bucket/prefix.")],
    dry_run: DryRun = False,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Fetch a store from another place, or bring the one here up to date.

    Only what is missing here travels. Where both sides have releases of their own it is refused.
    """
    from fedrelease.server.transfer import pull as copy

    _tell(copy(origin, store, dry_run=dry_run), str(store), dry_run=dry_run, as_json=as_json)


def _print_sweep(found: "Sweep", *, applied: bool, grace: str) -> None:
    console = to_stdout()
    if found.leftovers:
        rows = table("what", "path", "bytes>")
        for leftover in found.leftovers:
            rows.add_row(leftover.kind, plain(leftover.path), f"{leftover.size:,}")
        put(console, rows)
    verb = "removed" if applied else "would be removed"
    console.print(f"{len(found.leftovers)} leftovers, {found.size:,} bytes {verb}; no release refers to any of them")
    if found.young:
        console.print(f"{found.young} more are younger than {grace} and stay")


def _print_retirement(gone: "Retirement", *, applied: bool) -> None:
    """What goes by the numbers, release by release, and what stays in spite of them."""
    console = to_stdout()
    if gone.leaving:
        rows = table("release", "what", "path", "bytes>", "rule")
        for one in sorted(gone.leaving, key=lambda one: (version_key(one.version), one.kind)):
            rows.add_row(one.version, one.kind, plain(one.path), f"{one.size:,}", one.rule)
        put(console, rows)
    for stays in gone.staying:
        console.print(plain(f"{stays.version} stays: {stays.why}"))
    if gone.leaving or gone.staying:
        verb = "were retired" if applied else "would be retired"
        console.print(
            f"{len(gone.leaving)} things of old releases, {gone.size:,} bytes {verb}; what they were stays on record"
        )


def _print_found(found: "Found", mended: "Sequence[Flaw]") -> None:
    console = to_stdout()
    for flaw in mended:
        console.print(plain(f"mended: {flaw.path}: {flaw.what}"))
    if found.flaws:
        rows = table("problem in", "what", "--repair would")
        for flaw in found.flaws:
            rows.add_row(plain(flaw.path), plain(flaw.what), flaw.mend or "not help: restore it from a copy")
        put(console, rows)
    head = f"head {found.head}" if found.head else "no release yet"
    console.print(f"{'ok' if found.ok else f'{len(found.flaws)} problems'}: {found.checked} files checked, {head}")
    print_retired(found.retired, console)
    if found.loose:
        console.print(f"{found.loose} blobs, {found.loose_bytes:,} bytes, belong to no release: fedrelease gc")
    if found.under_way:
        console.print("somebody is writing: what a writer leaves for a moment was not looked for")


def _pack_document(steps: "Sequence[PackStep]", done: "Sequence[Packed]", *, applied: bool) -> dict[str, Json]:
    after = {packed.step.sha256: packed.after for packed in done}
    files = [{**asdict(step), "after": after.get(step.sha256)} for step in steps]
    return {
        "applied": applied,
        "files": files,
        "bytes": sum(step.size for step in steps),
        "after": sum(after.values()) if applied else None,
    }


def _print_packed(steps: "Sequence[PackStep]", done: "Sequence[Packed]", *, applied: bool) -> None:
    console, before = to_stdout(), sum(step.size for step in steps)
    if not steps:
        console.print("nothing to pack: only releases of whole models are, and what is packed stays so")
        return
    rows = table("version", "file", "keyframe", "bytes>", "packed>")
    after = {packed.step.sha256: packed.after for packed in done}
    for step in steps:
        small = f"{after[step.sha256]:,}" if step.sha256 in after else "-"
        rows.add_row(step.version, plain(step.path), (step.keyframe or "itself")[:8], f"{step.size:,}", small)
    put(console, rows)
    if applied:
        console.print(f"{before:,} bytes became {sum(after.values()):,}; every file was read back and is the same")
    else:
        console.print(f"{len(steps)} files, {before:,} bytes; nothing was packed: fedrelease repack --apply")


def _tell(copied: "Copied", place: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        told = {"files": copied.files, "bytes": copied.size, "lines": copied.lines, "generation": copied.generation}
        emit_json({"place": place, "dry_run": dry_run, **told})
        return
    verb = "would travel" if dry_run else "travelled"
    said = f"{copied.files} files, {copied.size:,} bytes and {copied.lines} lines of the log {verb}"
    end = f"{place} {'would be' if dry_run else 'is'} at generation {copied.generation}"
    to_stdout().print(
        plain(f"{said}; {end}" if copied.lines or copied.files else f"nothing to do: {end.replace('would be', 'is')}")
    )
