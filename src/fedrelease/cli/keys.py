"""``keys``: whose keys sign a store, and which of them this machine believes.

Example::

    fedrelease keys
    fedrelease keys trust 6a9d002ea17325ad --store releases
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.output import emit_json, put, table, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.server.agreement import ShownKey

__all__ = ["keys"]


def keys(
    what: Annotated[str | None, typer.Argument(metavar="[trust]", hidden=True)] = None,
    fingerprint: Annotated[str | None, typer.Argument(metavar="[FINGERPRINT]", hidden=True)] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Show the keys that sign a store, and agree to one.

    Without anything it lists this machine's own keys and those in the store. `trust FINGERPRINT` agrees to one of them for
    this store (8 digits are enough): the store may then be signed with it. Compare fingerprints over a channel that you trust.
    """
    from fedrelease.server.agreement import agree, shown_keys
    from fedrelease.server.keys import keys_folder

    if what not in (None, "trust") or (what is not None and fingerprint is None):
        given = " ".join(part for part in (what, fingerprint) if part)
        raise ExperimentError("keys can be shown or trusted", value=given, hint="fedrelease keys trust FINGERPRINT")
    if fingerprint is not None:
        agree(store, keys_folder(), fingerprint)
    shown = shown_keys(store, keys_folder())
    if as_json:
        emit_json({"folder": str(keys_folder()), "store": str(store), "keys": [key.document() for key in shown]})
    else:
        _print(shown, keys_folder())


def _print(shown: "tuple[ShownKey, ...]", folder: Path) -> None:
    console = to_stdout()
    rows = table("fingerprint", "role", "where", "believed here")
    for key in shown:
        believed = "yes" if key.trusted else "no: fedrelease keys trust"
        rows.add_row(key.fingerprint, key.role, ", ".join(key.where), believed)
    put(console, rows)
    console.print(f"your own keys lie in {folder}")
