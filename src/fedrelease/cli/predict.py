"""``fedrelease predict``: ask a released version about texts.

Example::

    fedrelease predict --release stable "a warm and funny film"
    fedrelease predict --file reviews.txt --json
    fedrelease predict "My fellow citizens," --tokens 40
    fedrelease predict "a warm and funny film" --own releases.sites/movie
    fedrelease predict --separator "|" "Who wrote Hamlet ? | a person"
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fedrelease.cli.output import emit_json, put, table, to_stdout
from fedrelease.cli.read import RELEASES, JsonOption, StoreOption, open_store
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.server.release import Release
    from fedrelease.tasks.contract import Prediction
    from fedrelease.update import State

__all__ = ["predict", "text_lines"]


def predict(
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", hidden=True)] = None,
    release: Annotated[
        str,
        typer.Option(
            "--release", metavar="REF", show_default=False, help="Version, channel or digest [default: stable]."
        ),
    ] = "stable",
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Read texts from a file, one a line.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="N",
            show_default=False,
            help="Of a model that writes: at most so many tokens for each text [default: 40].",
        ),
    ] = None,
    own: Annotated[
        Path | None,
        typer.Option(
            "--own",
            metavar="FOLDER",
            show_default=False,
            help="Put the part of the model that a site keeps to itself in its place; FOLDER is that site's.",
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            "--separator",
            metavar="MARK",
            show_default=False,
            help="Of pair-classification: what lies between the two texts of a pair [default: a tab].",
        ),
    ] = None,
    store: StoreOption = RELEASES,
    as_json: JsonOption = False,
) -> None:
    """Label texts with a release, or continue them.

    TEXT is what to label; without any, the lines of --file or of stdin are labelled. Empty lines are left out. A release of
    token-classification tells each word's tag, and the names that the tags make. One of causal-lm continues or
    answers each text by the most likely tokens, one of seq2seq writes a text for it, and one of masked-lm tells the words that
    TEXT hides behind the mask of its base. One of image-classification is given names of image files. One of pair-classification
    is given two texts at once, with a tab or the mark of --separator between them. One of multi-label-classification tells the
    labels with a score above 0.5, and one of regression a number. Where the strategy lets each site keep a part of the model,
    --own asks the model that a site has.
    """
    asked = _texts(texts or [], file)
    found = open_store(store).find(release)
    from fedrelease.cache import cache_folder
    from fedrelease.server.predict import predict as label

    part = {"own": _own(found, own)} if own else {}
    predictions = label(found, asked, cache=cache_folder(), tokens=tokens, separator=separator, **part)
    if as_json:
        emit_json(
            {"version": found.version, "digest": found.digest, "predictions": [one.document() for one in predictions]}
        )
    else:
        _print(predictions)


def _own(release: "Release", folder: Path) -> "State":
    """What the site of this folder has in place of the release's tensors."""
    from fedrelease.client.private_part import part_of_release
    from fedrelease.server.release import experiment_of

    return part_of_release(folder, experiment_of(release), release.state(), version=release.version)


def _texts(given: Sequence[str], file: Path | None) -> list[str]:
    """The texts to label: those given, else the lines of the file, else those of stdin; empty lines are left out."""
    if given and file is not None:
        raise ExperimentError("both TEXT and --file are given", rule="texts come from one place", hint="leave one out")
    if given:
        return list(given)
    return text_lines(file)


def text_lines(file: Path | None) -> list[str]:
    """The lines of a file, or of stdin, that are not empty.

    Raises:
        ExperimentError: there is none, or the file is not UTF-8.
    """
    lines = _lines(file) if file is not None else _stdin_lines()
    asked = [line for line in lines if line.strip()]
    if not asked:
        hint = 'fedrelease predict "a warm and funny film", or --file FILE, or lines on stdin'
        raise ExperimentError("there is no text to label", rule="at least one text", hint=hint)
    return asked


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{file} is not UTF-8: {error}", value=str(file), rule="a text file in UTF-8") from error


def _stdin_lines() -> list[str]:
    return [] if sys.stdin.isatty() else sys.stdin.read().splitlines()


def _print(predictions: "Sequence[Prediction]") -> None:
    lines = [line for one in predictions for line in one.lines()]
    rows = table(*lines[0])
    for line in lines:
        rows.add_row(*(Text(cell) for cell in line.values()))
    put(to_stdout(), rows)
