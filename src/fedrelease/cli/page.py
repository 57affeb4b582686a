"""The page of one release, as ``fedrelease show`` prints it.

Example::

    print_release(store, store.find("stable"), to_stdout())
"""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from fedrelease.adapter import FACTORS, trained_words
from fedrelease.cli.output import Column, fitting, put, section
from fedrelease.cli.views import moment
from fedrelease.experiment_file import load_experiment
from fedrelease.experiment_sections import FIXED_LABELS
from fedrelease.manifest import RESIDUAL, Accepted, Manifest, PrivacyFacts
from fedrelease.server.journal import LogEntry
from fedrelease.server.release import Release
from fedrelease.server.retired import retired_files
from fedrelease.server.store import Store
from fedrelease.server.tracking.links import links_of, place_of
from fedrelease.server.variants import variants_of
from fedrelease.tasks import TASKS
from fedrelease.wording import amount, duration, number, plain

__all__ = ["print_release", "privacy_sentence"]

SEEDED = (
    "The noise of this run comes from a seed, so that it can be repeated bit for bit: it shows what privacy costs,"
    " but whoever knows the seed can take the noise away again."
)

NAMED = 20
"""Sites of one release that are named; a round may have a thousand."""


def print_release(store: Store, release: Release, console: Console) -> None:
    """Print all facts of a release, section by section."""
    manifest = release.manifest
    wanted = (release.digest, manifest.verdict)
    entry = next((entry for entry in store.history() if (entry.digest, entry.event) == wanted), None)
    channels = ", ".join(store.channels().pointing_at(release.version))
    console.print(Text(plain(f"{manifest.federation.name} {release.version}"), style="bold"), end="")
    console.print(f"  {manifest.verdict}" + (f"  {channels}" if channels else ""))
    _print_identity(console, release, entry)
    _print_model(console, manifest, precision=_precision(release))
    _print_round(console, manifest, entry)
    _print_privacy(console, manifest.privacy)
    _print_metrics(console, manifest)
    _print_files(console, manifest)
    _print_variants(console, release)
    _print_tracking(console, release)
    section(console, "environment", sorted(manifest.environment.items()))


def _print_identity(console: Console, release: Release, entry: LogEntry | None) -> None:
    manifest = release.manifest
    pairs = [
        ("digest", release.digest),
        ("parents", ", ".join(manifest.parents) or "none: this is the first release"),
        ("released", moment(entry.time) if entry else "the log does not say"),
        ("phase", f"{manifest.phase}, round {manifest.round}"),
        ("reason", entry.reason or "" if entry else ""),
        *(
            ("retired", f"{', '.join(one.files)} on {one.time[:10]}: {one.rule}")
            for one in retired_files(release.root, manifest)
        ),
    ]
    section(console, "identity", pairs)


def _precision(release: Release) -> str:
    """Of the base, which is part of what the release computes; nothing when the release does not say."""
    if not any(file.path == "experiment.toml" for file in release.manifest.files):
        return ""
    return " in " + load_experiment(None, text=release.read("experiment.toml").decode()).model.precision


def _print_model(console: Console, manifest: Manifest, *, precision: str) -> None:
    adapter, task = manifest.adapter, manifest.task
    root = " over the root of the rank" if adapter.rank_stabilised else ""
    own = f"; each site has a pair of its own, rank {adapter.own_rank}" if adapter.own_rank else ""
    factors = f"{adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha:g}{root}, {adapter.targets} of {adapter.layers}{own}"
    pairs = [
        ("base", f"{manifest.base.ref}{precision}"),
        ("adapter", factors if adapter.kind in FACTORS else trained_words(adapter)),
        ("task", task.name if task.name in FIXED_LABELS else f"{task.name}: {', '.join(task.labels)}"),
        ("text", f"at most {task.max_length} tokens" if TASKS[task.name].reads == "texts" else ""),
    ]
    section(console, "model", pairs)


def _print_round(console: Console, manifest: Manifest, entry: LogEntry | None) -> None:
    federation = manifest.federation
    knobs = ", ".join(f"{name} = {value}" for name, value in sorted(federation.strategy_params.items()))
    accepted = [_accepted(one) for one in federation.accepted]
    residual = manifest.metrics.server.get(RESIDUAL)
    up, down = (entry.bytes_up, entry.bytes_down) if entry else (None, None)
    pairs = [
        ("strategy", federation.strategy + (f" ({knobs})" if knobs else "")),
        ("asked", f"{len(federation.cohort)}: {_some(federation.cohort)}" if federation.cohort else "nobody"),
        ("accepted", f"{len(accepted)}: {_some(accepted)}" if accepted else ""),
        *((f"refused {one.site}", one.reason) for one in federation.refused[:NAMED]),
        ("refused", f"and {len(federation.refused) - NAMED} more: --json" if len(federation.refused) > NAMED else ""),
        ("traffic", f"{amount(up)} up, {amount(down)} down" if up is not None else ""),
        (
            "residual",
            f"{residual:.4f} of the mean of products, in the worst LoRA layer" if residual is not None else "",
        ),
        ("took", duration(entry.seconds) if entry and entry.seconds is not None else ""),
    ]
    section(console, "round", pairs)


def _some(names: Sequence[str]) -> str:
    """All of them, or as many as one can read."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more: --json" if more > 0 else "")


def _accepted(one: Accepted) -> str:
    """The site, with its number of examples where it does not keep that private."""
    return one.site if one.examples is None else f"{one.site} ({one.examples} examples)"


def privacy_sentence(epsilon: float, delta: float) -> str:
    """What epsilon means, in one sentence."""
    odds = math.exp(min(epsilon, 20.0))
    factor = f"e^{epsilon:.2f}" + ("" if epsilon > 20 else f" = {odds:,.0f}" if odds >= 100 else f" = {odds:.3g}")
    return (
        f"With or without any one example of a site, the chance that these releases come out this way, or that somebody"
        f" learns a thing from them, differs by at most a factor of {factor}, plus {delta:g}."
    )


def _print_privacy(console: Console, privacy: PrivacyFacts | None) -> None:
    if privacy is None:
        section(console, "privacy", [("promise", "none: a release without differential privacy may reveal examples")])
        return
    noise = SEEDED if privacy.noise == "seeded" else "The noise comes from the operating system's secure source."
    sites = [f"{one.site} {one.epsilon_total:.2f} ({one.pool})" for one in privacy.sites]
    pairs = [
        (
            "epsilon",
            f"{privacy.epsilon_total:.2f} until now, {privacy.epsilon_round:.2f} for this round alone (worst site)",
        ),
        ("promise", privacy_sentence(privacy.epsilon_total, privacy.delta)),
        ("noise", noise),
        (
            "how",
            f"{privacy.mechanism}, clip {privacy.clip:g}, {privacy.accountant} accountant, delta {privacy.delta:g}",
        ),
        ("protects", f"one {privacy.unit}"),
        ("by site", _some(sites)),
    ]
    section(console, "privacy", pairs)


def _print_metrics(console: Console, manifest: Manifest) -> None:
    metrics = manifest.metrics
    rows: dict[str, Mapping[str, float]] = {
        **dict(sorted(metrics.sites.items())[:NAMED]),
        "mean of sites": metrics.mean,
        "worst of sites": metrics.worst,
        "server hold-out": {name: value for name, value in metrics.server.items() if name != RESIDUAL},
    }
    told = {name: values for name, values in rows.items() if values}
    section(console, "metrics", [] if told else [("", "the sites keep their metrics private")])
    if told:
        names = sorted({name for values in told.values() for name in values}, key=_metric_order)
        columns = [Column(header="  measured on", cells=[f"  {row}" for row in told])]
        columns += [
            Column(header=f"{name}>", cells=[_metric(name, row.get(name)) for row in told.values()]) for name in names
        ]
        put(console, fitting(console, columns))


def _metric_order(name: str) -> tuple[int, str]:
    known = ("accuracy", "entity_f1", "macro_f1", "loss", "examples")
    return (known.index(name) if name in known else 3, name)


def _metric(name: str, value: float | None) -> str:
    return number(value, 0 if name == "examples" else 3)


def _print_files(console: Console, manifest: Manifest) -> None:
    section(console, "files", [])
    columns = [
        Column(header="  path", cells=[f"  {file.path}" for file in manifest.files]),
        Column(header="role", cells=[file.role for file in manifest.files], rank=1),
        Column(header="size>", cells=[amount(file.size) for file in manifest.files]),
        Column(header="sha256", cells=[file.sha256[:16] for file in manifest.files], rank=2),
    ]
    put(console, fitting(console, columns))


def _print_variants(console: Console, release: Release) -> None:
    """What was exported, where anything was: only what passed its gate may stand in for the release."""
    variants = variants_of(release)
    if not variants:
        return
    section(console, "variants", [])
    columns = [
        Column(header="  format", cells=[f"  {variant.format}" for variant in variants]),
        Column(header="servable", cells=["yes" if variant.servable else "no" for variant in variants]),
        Column(header="verdict", cells=[variant.verdict for variant in variants], rank=1),
        Column(header="size>", cells=[amount(variant.size_bytes) for variant in variants]),
        Column(header="agreement>", cells=[number(variant.measured.get("agreement")) for variant in variants], rank=2),
        Column(header="checked on", cells=[variant.rows for variant in variants], rank=3),
    ]
    put(console, fitting(console, columns))


def _print_tracking(console: Console, release: Release) -> None:
    """The runs of trackers that have these numbers, where there are any."""
    if links := links_of(release):
        told = [(link.tracker, f"run {link.run} in {place_of(link, release.root)}") for link in links]
        section(console, "tracking", told)
