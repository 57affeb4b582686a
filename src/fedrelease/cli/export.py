"""``export`` and ``card``: take a release out of its store, in a form that others open.

Example::

    fedrelease export stable --format onnx
    fedrelease card stable --out MODEL_CARD.md
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.options import Quiet
from fedrelease.cli.output import Column, emit, emit_json, fitting, put, to_stderr, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.errors import StoreError
from fedrelease.wording import amount, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedrelease.server.exports import Exported
    from fedrelease.server.keys import PrivateKey

__all__ = ["card", "export"]

EXIT: Mapping[str, int] = {"pass": 0, "inconclusive": 3}
"""By verdict; what is not here is 1."""
Ref = Annotated[str, typer.Argument(metavar="REF", help="A version, a channel or a digest.")]


def export(
    ref: Ref,
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="hf, onnx, int8 or safetensors.")],
    merged: Annotated[bool, typer.Option("--merged", help="With hf: factors in the base's weights.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write [default: export/NAME-VERSION-FORMAT]."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option("--rows", metavar="FILE", help="Rows to check it on, with columns text and label."),
    ] = None,
    store: StoreOption = RELEASES,
    quiet: Quiet = False,
    as_json: JsonOption = False,
) -> None:
    """Write a release in a format that others open.

    What was written is compared with the release: ends with exit code 1 when it does not stand up to it, with 3 when too
    few rows say so. An existing folder is replaced only if it is an untouched export of the same kind.
    """
    from fedrelease.cache import cache_folder
    from fedrelease.server.exports import Wanted
    from fedrelease.server.exports import export as write
    from fedrelease.server.keys import keys_folder, own_key

    opened, key = open_store(store, writing=True), own_key(keys_folder(), "release")
    wanted = Wanted(format=format, merged=merged, out=out, rows=rows, finish=lambda folder: _sign(folder, key))
    with _told(quiet=quiet) as tell:
        done = write(opened, opened.find(ref), wanted, cache=cache_folder(), tell=tell)
    if as_json:
        variant = done.variant
        emit_json({"version": variant.version, "digest": variant.digest, "path": str(done.folder), **variant.to_json()})
    else:
        _print(done)
    if code := EXIT.get(done.variant.verdict, 1):
        raise typer.Exit(code)


@contextmanager
def _told(*, quiet: bool) -> "Iterator[Callable[[str], None]]":
    """A listener that turns a wheel on a terminal, and prints one line a step elsewhere."""
    console = to_stderr()
    if quiet:
        yield lambda step: None
    elif console.is_terminal:
        with console.status("") as status:
            yield lambda step: status.update(plain(step))
    else:
        yield lambda step: console.print(plain(step))


def _print(done: "Exported") -> None:
    """The folder's files, the findings, and whether it may stand in for the release."""
    console, variant = to_stdout(), done.variant
    console.print(f"{variant.version} as {variant.format} in {plain(str(done.folder))}, {amount(variant.size_bytes)}")
    files = [
        Column(header="file", cells=list(variant.files)),
        Column(header="sha256", cells=[sha256[:16] for sha256 in variant.files.values()], rank=1),
    ]
    put(console, fitting(console, files))
    console.print(f"checked on {plain(variant.rows)}")
    findings = [
        Column(header="state", cells=[finding.state for finding in variant.findings]),
        Column(header="gate", cells=[finding.gate for finding in variant.findings]),
        Column(header="slice", cells=[finding.slice for finding in variant.findings], rank=2),
        Column(header="severity", cells=[finding.severity for finding in variant.findings], rank=1),
        Column(header="what", cells=[finding.what for finding in variant.findings]),
    ]
    put(console, fitting(console, findings))
    said = {"pass": "it may stand in for the release", "inconclusive": "not servable yet: name more rows with --rows"}
    console.print(f"{variant.verdict}: {said.get(variant.verdict, 'not servable')}")


def card(
    ref: Ref,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write; else stdout.")] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Write the model card of a release.

    In the form of the Hugging Face hub, from what the release itself says. A file that says something else is not overwritten.
    """
    from fedrelease.server.card import card as written
    from fedrelease.server.card import metadata

    release = open_store(store).find(ref)
    text = written(release)
    if out is not None:
        _write(out, text)
    if as_json:
        path = None if out is None else str(out)
        emit_json(
            {
                "version": release.version,
                "digest": release.digest,
                "path": path,
                "metadata": metadata(release),
                "card": text,
            }
        )
    elif out is None:
        emit(text.rstrip("\n"))
    else:
        to_stdout().print(f"card of {release.version} in {plain(str(out))}")


def _write(out: Path, text: str) -> None:
    if out.exists() and out.read_bytes() != text.encode():
        rule, hint = "a card takes the place of nothing else", "name another file with --out, or remove that one"
        raise StoreError(f"{out} holds something else", value=str(out), rule=rule, hint=hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def _sign(folder: Path, key: "PrivateKey") -> None:
    from fedrelease.server.folder_signature import sign_folder

    sign_folder(folder, key)
