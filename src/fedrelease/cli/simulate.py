"""``fedrelease simulate``: a federation on this machine, one release a round. Run again, it goes on where it stopped.

Example::

    fedrelease simulate                                           # the built-in experiment
    fedrelease simulate my.toml --set training.lr=0.003 --store releases-b
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from fedrelease.adapter import FACTORS, trained_words
from fedrelease.cli.options import AsJson, Quiet, Settings, Track, Workers
from fedrelease.cli.output import Column, emit_json, fitting, put, section, table, to_stderr, to_stdout
from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.experiment import Experiment, Model, Phase, Privacy
from fedrelease.wording import amount, duration, number, plain

if TYPE_CHECKING:
    from fedrelease.server.store import Store
    from fedrelease.server.tracking.choice import Tracking
    from fedrelease.simulations.report import Row
    from fedrelease.simulations.simulate import Summary

__all__ = ["built_in", "finish", "load", "plan", "simulate", "tracking_of"]

DEFAULT = "default"
STUDIES = "fedrelease.simulations.studies"


def _an_address(address: str | None) -> str | None:
    if address is not None and re.fullmatch(r"auto|([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}", address) is None:
        raise typer.BadParameter(f"{address!r} is neither 'auto' nor host:port")
    return address


def simulate(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", hidden=True)] = None,
    settings: Settings = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Folder of releases [default: federation.store].")
    ] = None,
    workers: Workers = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", show_default=False, help="What runs the sites [default: local]."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            callback=_an_address,
            help="A running Ray cluster, auto or host:port, for --engine ray [default: Ray is started here].",
        ),
    ] = None,
    track: Track = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    listing: Annotated[bool, typer.Option("--list", help="List the built-in experiments.")] = False,
) -> None:
    """Run a federation on this machine.

    FILE is a TOML file or the name of a built-in experiment; without it the experiment called default runs. Every
    round becomes a release in the store. Run the same command again to go on after an interruption. A flag beats the
    file, and the file beats the defaults.
    """
    if listing:
        _list(as_json=as_json)
        return
    if ray_address is not None and engine != "ray":
        raise typer.BadParameter("a cluster's address goes with --engine ray", param_hint="--ray-address")
    experiment = load(file, settings or [], store)
    talk = to_stderr()
    tracking = tracking_of(track, talk)
    if not quiet:
        plan(experiment, talk)
    ray, address = engine == "ray", ray_address
    summary = _run(experiment, talk, workers=workers, quiet=quiet, ray=ray, address=address, tracking=tracking)
    _finish(experiment, summary, as_json=as_json)


def load(file: str | None, settings: Sequence[str], store: Path | None) -> Experiment:
    """The experiment of a file or of a built-in name, with overrides, and with another store if one is named.

    Raises:
        ExperimentError: there is no such experiment, or something in it is wrong.
    """
    from fedrelease.experiment_file import load_experiment

    with _path_of(file or DEFAULT) as path:
        experiment = load_experiment(path, settings)
    if store is None:
        return experiment
    return replace(experiment, federation=replace(experiment.federation, store=str(store)))


@contextmanager
def _path_of(name: str) -> Iterator[Path]:
    """The file of that path, else the built-in experiment of that name."""
    if Path(name).is_file():
        yield Path(name)
    elif name in built_in():
        with resources.as_file(resources.files(STUDIES) / f"{name}.toml") as path:
            yield path
    else:
        raise _no_experiment(name)


def _no_experiment(name: str) -> ExperimentError:
    known = sorted(built_in())
    near = get_close_matches(name, known, n=1)
    rule = f"an experiment is a TOML file, or one of {', '.join(known)}"
    hint = (
        f"fedrelease simulate {near[0]}"
        if near
        else "check the path; fedrelease simulate --list names the built-in ones"
    )
    return ExperimentError("there is no such experiment", value=name, rule=rule, hint=hint)


def built_in() -> dict[str, str]:
    """The built-in experiments: name -> what its first comment says."""
    files = [file for file in resources.files(STUDIES).iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): _opening(file.read_text("utf-8")) for file in files}


def _opening(text: str) -> str:
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _list(*, as_json: bool) -> None:
    known = sorted(built_in().items())
    if as_json:
        emit_json({"experiments": [{"name": name, "what": what} for name, what in known]})
        return
    rows = table("name", "what")
    for name, what in known:
        rows.add_row(name, Text(what))
    put(to_stdout(), rows)


def plan(experiment: Experiment, console: Console, *, data: str | None = None) -> None:
    """Print in short what will run, with every default filled in; ``data`` is said of rows that are not here."""
    model, training, privacy = experiment.model, experiment.training, experiment.privacy
    pairs = [
        ("base", _base(model)),
        ("task", f"{model.task}: {_labels(experiment)}"),
        ("data", data or _data(experiment)),
        (
            "training",
            f"{_count(training.epochs, 'epoch')} a round, batches of {training.batch_size}, lr {training.lr:g}",
        ),
        ("privacy", _privacy(privacy)),
        *((f"phase {phase.name}", _phase(phase)) for phase in experiment.phases),
        ("seed", str(experiment.federation.seed)),
        ("store", experiment.federation.store),
    ]
    section(console, f"{experiment.federation.name}: {_count(experiment.rounds, 'round')}", pairs)
    console.print()


def _labels(experiment: Experiment) -> str:
    """All labels; where phases add some, as ``a, b; then c; then d``. Of a number its range."""
    data = experiment.data
    if data.range is not None:
        low, high = data.range
        return f"a number from {low:g} to {high:g}, right within {data.scale.near * data.scale.unit:g}"
    steps = [0, *sorted({len(labels) for labels in experiment.phase_labels})]
    return "; then ".join(", ".join(experiment.model.labels[begin:end]) for begin, end in pairwise(steps))


def _base(model: Model) -> str:
    adapter = model.adapter
    if adapter.kind == "full":
        return f"{model.base}: every weight is trained"
    precision = "this machine's quicker precision" if model.precision == "auto" else model.precision
    if adapter.kind not in FACTORS:
        return f"{model.base} in {precision}: {trained_words(adapter)}"
    own = f", and a pair of rank {adapter.own_rank} that each site keeps" if adapter.own_rank else ""
    where = f"{adapter.targets}, layers {adapter.layers}"
    return f"{model.base} in {precision}: {adapter.kind} of rank {adapter.rank} on {where}{own}"


def _data(experiment: Experiment) -> str:
    data, partition = experiment.data, experiment.data.partition
    if partition.by == "virtual":
        return f"{data.source}: {partition.sites} virtual sites that draw {partition.rows} rows each"
    sites = (
        f"one site for each value of {partition.column!r}"
        if partition.by == "column"
        else f"{partition.sites} sites, {partition.by}"
    )
    return f"{data.source}: {sites}, {data.holdout:.0%} of the rows held out"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def _privacy(privacy: Privacy) -> str:
    if privacy.unit == "none":
        return "none: a release may reveal training examples"
    return f"one {privacy.unit}: epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for the whole plan"


def _phase(phase: Phase) -> str:
    share = phase.sites_per_round
    many = f"{share} sites" if isinstance(share, int) else "all sites" if share == 1 else f"{share:.0%} of the sites"
    grows = ", ".join(f"{name} = {value}" for name, value in phase.adapter.given.items())
    adapter = f"; the adapter grows to {grows}" if grows else ""
    return f"{_count(phase.rounds, 'round')} of {phase.strategy.name} with {many}, to {phase.channel}{adapter}"


def _run(
    experiment: Experiment,
    talk: Console,
    *,
    workers: int | None,
    quiet: bool,
    ray: bool,
    address: str | None,
    tracking: "Tracking",
) -> "Summary":
    from fedrelease.cache import cache_folder
    from fedrelease.simulations.progress import watching
    from fedrelease.simulations.ray_cluster import Ray
    from fedrelease.simulations.simulate import simulate as run

    def say(line: str) -> None:
        if not quiet:
            talk.print(plain(line))

    with watching(talk, quiet=quiet) as watch:
        folder = Path(experiment.federation.store)
        return run(
            experiment,
            store=folder,
            cache=cache_folder(),
            workers=workers,
            watch=watch,
            say=say,
            ray=Ray(address=address) if ray else None,
            tracking=tracking,
        )


def tracking_of(flags: Sequence[str] | None, talk: Console) -> "Tracking":
    """The trackers that were asked for; what one of them cannot do is said however quiet it is otherwise.

    Raises:
        ExperimentError: there is no such tracker, or it is not installed. Nothing was run.
    """
    from fedrelease.server.tracking.choice import Tracking, chosen_trackers

    return Tracking(choices=chosen_trackers(flags or ()), warn=lambda line: talk.print(plain(line)))


def finish(experiment: Experiment, store: Path, *, seconds: float, resumed: bool, as_json: bool) -> None:
    """What a run that somebody else did came to."""
    from fedrelease.server.store import Store
    from fedrelease.simulations.simulate import summary_of

    opened = Store.open(store) if store.exists() else None
    if opened is None or opened.head() is None:
        raise RoundFailed("it ended before its first release", value=str(store), hint="run the same command again")
    _finish(experiment, summary_of(experiment, opened, seconds=seconds, resumed=resumed), as_json=as_json)


def _finish(experiment: Experiment, summary: "Summary", *, as_json: bool) -> None:
    """Draw the report into the store, then print what came out."""
    from fedrelease.server.store import Store
    from fedrelease.simulations.report import learning_curve, summary_rows, write_summary

    folder = Path(summary.store)
    store = Store.open(folder)
    curve = learning_curve(store, folder / "learning-curve.png")
    rows = write_summary(store, folder / "summary.csv")
    if as_json:
        emit_json({**_document(summary), "learning_curve": str(curve), "summary": str(rows)})
        return
    console = to_stdout()
    put(console, fitting(console, _columns(summary_rows(store))))
    section(console, "files", [("curve", str(curve)), ("summary", str(rows))])
    section(console, "next", [])
    for command in _next(store, experiment, summary):
        console.print(f"  {command}", soft_wrap=True)


def _document(summary: "Summary") -> dict[str, str | int | float | bool | None]:
    return {
        "name": summary.name,
        "store": str(summary.store),
        "head": summary.head,
        "head_digest": summary.head_digest,
        "released": summary.released,
        "held": summary.held,
        "seconds": summary.seconds,
        "epsilon": summary.epsilon,
        "resumed": summary.resumed,
    }


def _columns(rows: Sequence["Row"]) -> list[Column]:
    from fedrelease.cli.views import shown_columns

    return [
        Column(header="version", cells=[row.version for row in rows]),
        Column(header="round>", cells=[str(row.round) for row in rows], rank=3),
        Column(header="accuracy>", cells=[number(row.accuracy) for row in rows]),
        *shown_columns(rows),
        Column(header="worst>", cells=[number(row.worst_accuracy) for row in rows]),
        Column(header="site", cells=[row.worst_site or "-" for row in rows], rank=1),
        Column(header="epsilon>", cells=[number(row.epsilon, 2) for row in rows]),
        Column(header="up>", cells=[amount(row.bytes_up) for row in rows], rank=4),
        Column(header="down>", cells=[amount(row.bytes_down) for row in rows], rank=5),
        Column(header="took>", cells=[duration(row.seconds) for row in rows], rank=2),
        *([Column(header="verdict", cells=[row.verdict for row in rows])] if _any_held(rows) else []),
    ]


def _any_held(rows: Sequence["Row"]) -> bool:
    return any(row.verdict == "held" for row in rows)


def _next(store: "Store", experiment: Experiment, summary: "Summary") -> list[str]:
    """The commands to try now, ready to copy."""
    from fedrelease.tasks import TASKS

    folder = str(summary.store)
    where = "" if folder == "releases" else f" --store {shlex.quote(folder)}"
    release = "stable" if "stable" in store.channels().channels else summary.head
    texts = TASKS[experiment.model.task].predict is not None
    pairs = TASKS[experiment.model.task].pairs
    mark = ' --separator "|"' if pairs else ""
    predict = f'fedrelease predict --release {release}{where}{mark} "{_sample(experiment)}"'
    return [
        f"fedrelease log{where}",
        f"fedrelease show {summary.head}{where}",
        f"fedrelease verify{where}",
        *([predict] if texts else []),
    ]


def _sample(experiment: Experiment) -> str:
    film, name = "a warm and funny film", "Ada Lovelace lives in London"
    known = {"four-sites": film, "four-sites-ratings": film, "wnut": name, "wnut-types": name}
    known |= {"cmudict": "tokenizer", "cmudict-stress": "tokenizer"}
    known["trec-pairs"] = "Who wrote Hamlet ? | a person or a group of people"
    from fedrelease.tasks import TASKS

    if TASKS[experiment.model.task].reads == "images":
        return "photo.png"
    pairs = TASKS[experiment.model.task].pairs
    return known.get(experiment.data.source, "your text | another text" if pairs else "your text")
