"""The folder of a store: ``store.json``, its rooms, and what a killed run left lying about.

Example::

    create(Path("releases"))
    check(Path("releases"))                                # raises StoreError on a folder that is no store
"""

import json
import shutil
from pathlib import Path

from fedrelease.errors import StoreError
from fedrelease.files import canonical_bytes, sync_folder, write_durably

__all__ = ["FIRST", "LAYOUT", "allow_packed", "allow_retired", "check", "create", "prepare"]

FIRST = 1
PACKED = 3
LAYOUT = 4
"""The newest that is read here; from 2 on a blob may be packed, from 3 on by numbers that differ, in a line of keyframes, and
from 4 on retired."""


def create(root: Path) -> None:
    """Make a missing or empty folder a store; a store stays as it is.

    Raises:
        StoreError: the folder holds something else.
    """
    marker = root / "store.json"
    if marker.exists():
        return
    found = sorted(path.name for path in root.iterdir()) if root.exists() else []
    if others := [name for name in found if not name.startswith(".store.json.")]:  # a killed run's temporary file
        hint = "name an empty or a new folder with --store, or restore store.json from a copy"
        raise StoreError(f"the folder holds {others[0]!r} but no store.json", value=str(root), hint=hint)
    write_durably(marker, canonical_bytes({"layout": FIRST}))


def allow_packed(root: Path) -> None:
    """Before the first blob is packed: an older fedrelease refuses the store from now on, rather than miss its files."""
    _raise_to(root, PACKED)


def allow_retired(root: Path) -> None:
    """Before the first file is retired: an older fedrelease would take it for damage."""
    _raise_to(root, LAYOUT)


def _raise_to(root: Path, layout: int) -> None:
    if _layout(root) < layout:
        write_durably(root / "store.json", canonical_bytes({"layout": layout}))


def check(root: Path) -> None:
    """Refuse a folder that is no store, or one of a layout that this code does not know.

    Raises:
        StoreError: missing, damaged, or newer.
    """
    layout = _layout(root)
    if layout > LAYOUT:
        raise StoreError(
            f"the store has layout {layout} and this fedrelease reads up to layout {LAYOUT}",
            value=str(root),
            hint="update fedrelease, or name another store with --store",
        )
    if layout < FIRST:
        raise StoreError("store.json is damaged", value=layout, rule="layouts count from 1", hint="restore it")


def _layout(root: Path) -> int:
    try:
        facts = json.loads((root / "store.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "make one with `fedrelease simulate`, or name another folder with --store"
        raise StoreError("no release store here", value=str(root), hint=hint) from error
    except OSError as error:
        raise StoreError(f"store.json cannot be read: {error.strerror}", value=str(root)) from error
    except (ValueError, RecursionError):
        facts = None
    layout = facts.get("layout") if isinstance(facts, dict) else None
    if type(layout) is not int:
        hint = f'if the rest is whole, write {{"layout":{LAYOUT}}} into it'
        raise StoreError("store.json is damaged", value=str(root), rule='it says {"layout": number}', hint=hint)
    return layout


def prepare(root: Path) -> None:
    """Make the rooms and sweep temporary files. Only the writer may do so: another's would be swept too."""
    for name in ("blobs/sha256", "versions", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    sync_folder(root / "blobs")
    for leftover in (*(root / "tmp").iterdir(), *root.glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    sync_folder(root)
