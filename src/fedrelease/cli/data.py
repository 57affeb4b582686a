"""``fedrelease data``: look at your own rows before anybody trains on them.

Example::

    fedrelease data check tweets.csv
    fedrelease data check rows.parquet --experiment my.toml --base minilm
    fedrelease data lengths my.toml
"""

from typing import TYPE_CHECKING, Annotated

import typer

from fedrelease.cli.data_lengths import lengths
from fedrelease.cli.options import AsJson
from fedrelease.cli.output import emit_json, example, to_stdout
from fedrelease.errors import ExperimentError

if TYPE_CHECKING:
    from fedrelease.experiment import Experiment

__all__ = ["check", "data"]

data = typer.Typer(
    name="data",
    help="Look at your own rows before anybody trains on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@data.callback()
def _group() -> None:
    """Look at your own rows before anybody trains on them."""


@data.command(
    epilog=example(
        "fedrelease data check tweets.csv",
        "fedrelease data check reviews.jsonl --text review --label stars --base minilm",
        "fedrelease data check rows.parquet --experiment my.toml",
    )
)
def check(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A file, a folder or a built-in source.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="The text [default: guessed].")] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="The label [default: guessed].")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", metavar="FILE", help="Deal the rows out as it would, and look for leaks."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Count tokens with this base, if it is here.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show the first 40 characters of rows that need fixing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what was understood of your rows, what to fix, and what to write into an experiment.

    Columns, labels, lengths, copies, contradictions, language; with --experiment also which rows lie at two sites, or in
    training and a hold-out. Nothing is fetched, written or sent, and no text is shown unless you say so. Ends with exit
    code 1 when an experiment would refuse the rows.
    """
    from fedrelease.cache import cache_folder
    from fedrelease.cli.data_page import check_document, print_check
    from fedrelease.data.check.checking import Wishes
    from fedrelease.data.check.checking import check as checked

    given = _experiment(experiment)
    if source is None and given is None:
        raise ExperimentError("nothing to look at", value="data check", hint="fedrelease data check FILE")
    wishes = Wishes(text=text, label=label, base=base, experiment=given)
    found = checked(source or (given.data.source if given else ""), wishes, cache=cache_folder())
    if as_json:
        emit_json(check_document(found, show=show))
    else:
        print_check(found, to_stdout(), show=show)
    if not found.ok:
        raise typer.Exit(1)


def _experiment(file: str | None) -> "Experiment | None":
    from fedrelease.cli.simulate import load

    return None if file is None else load(file, [], None)


data.command(
    epilog=example(
        "fedrelease data lengths my.toml",
        "fedrelease data lengths sotu-private --site barack-obama --rows 32",
        "fedrelease data lengths --set privacy.clip=0.5 --json",
    )
)(lengths)
