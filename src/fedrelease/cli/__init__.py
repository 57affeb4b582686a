"""The command line: verbs, their output, and errors a person can act on.

Example::

    from fedrelease.cli import run
    run(["log", "--store", "releases", "--json"])    # prints one JSON document, returns the exit code

Everything heavy (torch, transformers, flwr, matplotlib) is imported inside the verb that needs it, so that
``--help`` is quick.
"""

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Annotated

import click
import typer

from fedrelease import __version__
from fedrelease.cli.bisect import bisect
from fedrelease.cli.compare import compare
from fedrelease.cli.compatibility import compatibility
from fedrelease.cli.data import data
from fedrelease.cli.demo import demo
from fedrelease.cli.diff import diff
from fedrelease.cli.doctor import doctor
from fedrelease.cli.export import card, export
from fedrelease.cli.failure import report
from fedrelease.cli.fetch import fetch
from fedrelease.cli.gate import gate
from fedrelease.cli.keep import fsck, gc, pull, push, repack
from fedrelease.cli.keys import keys
from fedrelease.cli.move import pause, promote, resume, rollback, yank
from fedrelease.cli.output import emit, example
from fedrelease.cli.predict import predict
from fedrelease.cli.read import log, show, verify
from fedrelease.cli.retract import retract
from fedrelease.cli.server import server
from fedrelease.cli.simulate import simulate
from fedrelease.cli.site_fetch import site

__all__ = ["app", "command", "main", "prepare", "run"]

QUIET_LIBRARIES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
VERBS: Mapping[Callable[..., None], str] = {
    simulate: example("fedrelease simulate", "fedrelease simulate my.toml --set federation.seed=8 --store releases-8"),
    compare: example(
        "fedrelease compare my.toml --strategies fedavg,ffa-lora --seeds 5",
        "fedrelease compare --vary training.lr=1e-4,1e-3 --seeds 3 --out rates",
        "fedrelease compare --strategies fedavg,fedadam --trials 8 --search strategy.lr=0.01..1 --out tuned",
    ),
    log: example("fedrelease log", "fedrelease log --graph", "fedrelease log --json"),
    show: example("fedrelease show stable", "fedrelease show 0.0.3 --json"),
    diff: example("fedrelease diff 0.1.2 stable", "fedrelease diff 0.1.2 0.2.3 --json"),
    verify: example("fedrelease verify", "fedrelease verify 0.0.3 && echo intact", "fedrelease verify --recompute"),
    gate: example("fedrelease gate 0.2.1 --html gates.html", "fedrelease gate 0.2.1 --now --measure"),
    bisect: example('fedrelease bisect --good 0.1.1 --bad stable --check "sh check.sh {}"'),
    promote: example('fedrelease promote 0.2.1 --to stable --reason "two weeks in beta"'),
    rollback: example('fedrelease rollback stable --reason "complaints from site B"'),
    yank: example('fedrelease yank 0.2.1 --reason "wrong labels at site B"', "fedrelease yank --undo 0.2.1"),
    retract: example('fedrelease retract north --reason "it asked to leave"'),
    pause: example('fedrelease pause stable --reason "audit"'),
    resume: example("fedrelease resume stable"),
    export: example(
        "fedrelease export stable --format hf", "fedrelease export 0.2.1 --format int8 --rows rows.csv --out small"
    ),
    card: example("fedrelease card stable --out MODEL_CARD.md"),
    keys: example("fedrelease keys", "fedrelease keys trust 6a9d002ea17325ad --store releases"),
    gc: example("fedrelease gc", "fedrelease gc --apply --grace 7d"),
    fsck: example("fedrelease fsck", "fedrelease fsck --repair"),
    repack: example("fedrelease repack", "fedrelease repack --apply"),
    push: example("fedrelease push s3://models/four-sites", "fedrelease push ../copy-of-releases --dry-run"),
    pull: example("fedrelease pull s3://models/four-sites --store here"),
    predict: example(
        'fedrelease predict --release stable "a warm and funny film"',
        "fedrelease predict < texts.txt",
        'fedrelease predict "My fellow citizens," --tokens 40',
    ),
    fetch: example("fedrelease fetch --list", "fedrelease fetch minilm four-sites"),
    compatibility: example(
        "fedrelease compatibility --base minilm", "fedrelease compatibility --task causal-lm --adapter lora --json"
    ),
    doctor: example("fedrelease doctor"),
}

app = typer.Typer(
    name="fedrelease",
    help="Federated fine-tuning in which every round is a released model version.",
    epilog=example("fedrelease simulate", "fedrelease log", 'fedrelease predict --release stable "a warm film"'),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for verb, epilog in VERBS.items():
    app.command(epilog=epilog)(verb)
for group in (server, site, data, demo):
    app.add_typer(group)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"fedrelease {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Federated fine-tuning in which every round is a released model version."""


def command() -> click.Command:
    """The whole command line as one click command, for tests and documentation."""
    typer.core.HAS_RICH = False  # typer escapes brackets for rich in help that is plain text too
    return typer.main.get_command(app)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set what libraries read when they are imported; what the user has set stays.

    No telemetry, no update checks, and folders under the cache for what libraries would keep in the user's home.
    """
    from fedrelease.cache import cache_folder

    for name, value in QUIET_LIBRARIES.items():
        environment.setdefault(name, value)
    environment.setdefault("FLWR_HOME", str(cache_folder() / "flwr"))
    environment.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error becomes words here."""
    try:
        prepare(os.environ)
        whole = command()
        with whole.make_context("fedrelease", list(arguments)) as context:
            whole.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=_wants_json(arguments))
    return 0


def _wants_json(arguments: Sequence[str]) -> bool:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def main() -> None:
    """The ``fedrelease`` program."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # real files in a real program
    sys.exit(run(sys.argv[1:]))
