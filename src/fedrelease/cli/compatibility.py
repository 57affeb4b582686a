"""``fedrelease compatibility``: which adapter goes with which task, base and privacy engine, found by trying.

Example::

    fedrelease compatibility --base minilm
    fedrelease compatibility --task causal-lm --adapter lora --json
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.adapter import ADAPTER_KINDS, Adapter
from fedrelease.cli.options import AsJson
from fedrelease.cli.output import emit, emit_json, to_stdout
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.client.compatibility.table import Wanted

__all__ = ["compatibility"]

FORMATS = ("markdown", "text")


def compatibility(
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="Try this base, by alias, folder or hub id [default: tiny ones]."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="This task only; repeatable.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="KIND", help="This kind of adapter only; repeatable.")
    ] = None,
    layers: Annotated[
        str, typer.Option("--layers", metavar="LAYERS", help='Layers that get the adapter: "all" or "last:k".')
    ] = Adapter.layers,
    targets: Annotated[
        str, typer.Option("--targets", metavar="MODULES", help="attention, all-linear, or names of the base's modules.")
    ] = Adapter.targets,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text or markdown [default: text].", show_default=False)
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Try which adapter goes with which task, base and privacy engine.

    Each combination is built, its gradients are compared with those of one row at a time, and it takes a real step, with
    privacy and without. Without --base the bases are tiny ones of random weights, made on the spot. Nothing is fetched,
    charged or kept. Ends with exit code 1 when gradients are wrong or something breaks that should have been refused.
    """
    from fedrelease.cache import cache_folder
    from fedrelease.cli.compatibility_page import LEGEND, compatibility_document, markdown_section, print_section
    from fedrelease.client.compatibility.table import Tried, rows_of

    _one_of("--format", form, FORMATS)
    keys = Adapter(layers=layers, targets=targets)
    wanted, found = _wanted(base, task or [], adapter or [], keys), list[Tried]()
    with tempfile.TemporaryDirectory() as folder:
        for rows in rows_of(wanted, Path(folder), cache=cache_folder()):
            found += rows
            if not as_json and form == "markdown":
                emit(markdown_section(rows[0].task, rows))
            elif not as_json:
                print_section(rows[0].task, rows)
    if as_json:
        emit_json(compatibility_document(found))
    elif form == "text":
        to_stdout().print("\n".join(LEGEND))
    if any(row.wrong for row in found):
        raise typer.Exit(1)


def _wanted(base: str | None, tasks: list[str], adapters: list[str], keys: Adapter) -> "Wanted":
    from fedrelease.client.compatibility.table import Wanted
    from fedrelease.tasks import TASKS

    for given, flag, known in ((tasks, "--task", tuple(sorted(TASKS))), (adapters, "--adapter", ADAPTER_KINDS)):
        for name in given:
            _one_of(flag, name, known)
    return Wanted(base=base, tasks=tasks or tuple(sorted(TASKS)), adapters=adapters or ADAPTER_KINDS, keys=keys)


def _one_of(flag: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ExperimentError(f"{flag} does not know that", value=name, rule=f"it is one of {', '.join(known)}")
