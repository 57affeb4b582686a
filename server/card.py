"""The model card of a release, in the form of the Hugging Face hub: metadata in YAML, then pages for people.

Everything in it is read from the release: its manifest, its experiment, its answers to items, and the report of its gates.

Source: Mitchell et al. (2019), https://arxiv.org/abs/1810.03993, for what a card tells;
https://huggingface.co/docs/hub/model-cards for its metadata.

Example::

    text = card(store.find("stable"))
    metadata(store.find("stable"))["pipeline_tag"]           # 'text-classification'
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedrelease.adapter import trained_words
from fedrelease.experiment import Experiment
from fedrelease.experiment_sections import FIXED_LABELS, TELLING
from fedrelease.files import Json
from fedrelease.manifest import Manifest
from fedrelease.server.base_names import hub_id
from fedrelease.server.card_numbers import Measured, measured
from fedrelease.server.card_privacy import privacy_words
from fedrelease.server.judging import report_of
from fedrelease.server.release import Release, experiment_of
from fedrelease.tasks import TASKS
from fedrelease.wording import plain

__all__ = ["card", "metadata"]

METRICS = {
    "accuracy": "accuracy",
    "entity_f1": "f1",
    "macro_f1": "f1",
    "mean_absolute_error": "mae",
    "pearson": "pearsonr",
    "perplexity": "perplexity",
    "r2": "r_squared",
}
"""Ours by the hub's name."""
PIPELINES = {
    "causal-lm": "text-generation",
    "masked-lm": "feature-extraction",
    "multi-label-classification": "text-classification",
    "pair-classification": "text-classification",
    "regression": "text-classification",
    "seq2seq": "text2text-generation",
}
"""What the hub calls a task, where it has another name for it."""
NAMED = 20
"""Sites that are named; a round may have a thousand."""
MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})


def card(release: Release, *, recipe: str | None = None, library: str | None = None) -> str:
    """The whole card.

    Args:
        recipe: Python that opens the folder in which the card lies; without it the card says how to get one.
        library: with which that is done.

    Raises:
        DamagedRelease: a file of the release changed.
    """
    from huggingface_hub import CardData

    experiment = _experiment(release)
    head = CardData(ignore_metadata_errors=False, **metadata(release, library=library)).to_yaml(line_break="\n")
    return f"---\n{head}\n---\n\n" + "\n\n".join(_sections(release, experiment, recipe)) + "\n"


def metadata(release: Release, *, library: str | None = None) -> dict[str, Json]:
    """What the hub files a model under; names that are left out are not known."""
    manifest = release.manifest
    told = {**manifest.metrics.server, **manifest.metrics.mean}
    found: dict[str, Json] = {
        "base_model": hub_id(manifest.base.ref),
        "library_name": library or _library(manifest),
        "pipeline_tag": PIPELINES.get(manifest.task.name, manifest.task.name),
        "metrics": list(dict.fromkeys(hub for own, hub in METRICS.items() if own in told)) or None,
        "tags": ["federated-learning", "fedrelease", *(["differential-privacy"] if manifest.privacy else [])],
    }
    return {name: value for name, value in found.items() if value is not None}


def _library(manifest: Manifest) -> str | None:
    if not TASKS[manifest.task.name].opens_in_transformers:
        return None
    return "peft" if manifest.adapter.kind in ("lora", "prompt") else "transformers"


def _experiment(release: Release) -> Experiment | None:
    """What the release says of its experiment; one that was made by hand may say nothing."""
    kept = any(file.path == "experiment.toml" for file in release.manifest.files)
    return experiment_of(release) if kept else None


def _sections(release: Release, experiment: Experiment | None, recipe: str | None) -> list[str]:
    manifest = release.manifest
    return [
        f"# {manifest.name} {manifest.version}",
        _what(manifest, experiment),
        _section("How to load it", _load(manifest, recipe)),
        _section("Data", _data(manifest, experiment)),
        _section("Training", _training(manifest)),
        _section("Privacy", privacy_words(manifest.privacy)),
        _section("Metrics", _metrics(measured(release))),
        _section("Gates", _gates(release)),
        _section("Limits", _limits(manifest, experiment)),
        _section("Lineage", _lineage(release)),
    ]


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _safe(text: str) -> str:
    """Sites choose their names and reasons: no control character and no mark of Markdown gets through."""
    return plain(text).translate(MARKS)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(_safe(name) for name in names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _base(manifest: Manifest) -> str:
    return _safe(hub_id(manifest.base.ref) or Path(manifest.base.ref).name)


def _what(manifest: Manifest, experiment: Experiment | None) -> str:
    adapter, task = manifest.adapter, manifest.task
    head = "" if task.name in TELLING or adapter.kind == "full" else " and a linear head"
    trained = "a linear head" if adapter.kind == "head" else f"{trained_words(adapter)}{head}"
    labels = "" if task.name in FIXED_LABELS else f" with the labels {_some(task.labels)}"
    labels += f", {_numbers(experiment)}" if task.name == "regression" else ""
    return (
        f"A model for {task.name}{labels}. It is {_base(manifest)} with {trained}, trained by"
        f" federated learning: round {manifest.round} of the federation {_safe(manifest.federation.name)}, phase"
        f" {_safe(manifest.phase)}. Its verdict when it was published: {manifest.verdict}."
    )


def _numbers(experiment: Experiment | None) -> str:
    """What numbers a release of regression says, as far as its experiment is kept."""
    data = experiment.data if experiment is not None else None
    if data is None or data.range is None:
        return "a number for each text"
    low, high = data.range
    return f"a number from {low:g} to {high:g} for each text"


def _load(manifest: Manifest, recipe: str | None) -> str:
    if recipe is not None and manifest.task.name in TELLING:
        return f"In the folder of this card, beside the base's where it is an adapter:\n\n```python\n{recipe}\n```"
    if recipe is not None and manifest.task.name == "regression":
        return f"In the folder of this card:\n\n```python\n{recipe}\n```"
    if recipe is not None:
        labels = ", ".join(f"{place} {_safe(label)}" for place, label in enumerate(manifest.task.labels))
        return (
            f"In the folder of this card:\n\n```python\n{recipe}\n```\n\nLabels by their place in `logits`: {labels}."
        )
    format = "hf" if TASKS[manifest.task.name].opens_in_transformers else "onnx"
    return f"`fedrelease export {manifest.version} --format {format}` writes a folder that needs no fedrelease."


def _data(manifest: Manifest, experiment: Experiment | None) -> str:
    stays = "Rows stay at the sites; what left them are updates, and what the sites chose to tell."
    if experiment is None:
        return f"The release does not say where rows come from. {stays}"
    data = experiment.data
    source = f"Source: {_safe(Path(data.source).name)}, divided among sites by {data.partition.by}."
    held = f"{100 * data.holdout:g} % of each site's rows are held out"
    server = f", and {100 * data.server_holdout:g} % of all rows by the server" if data.server_holdout else ""
    return f"{source} {held}{server}. {stays}"


def _training(manifest: Manifest) -> str:
    federation = manifest.federation
    knobs = ", ".join(f"{name} = {value}" for name, value in sorted(federation.strategy_params.items()))
    accepted = [one.site for one in federation.accepted]
    lines = [
        f"- Strategy: {_safe(federation.strategy)}" + (f" ({_safe(knobs)})" if knobs else ""),
        f"- Sites asked in this round: {len(federation.cohort)}"
        + (f" ({_some(federation.cohort)})" if federation.cohort else ""),
        f"- Updates that count: {len(accepted)}" + (f" ({_some(accepted)})" if accepted else ""),
    ]
    lines += [f"- Refused: {_safe(one.site)}: {_safe(one.reason)}" for one in federation.refused[:NAMED]]
    more = len(federation.refused) - NAMED
    return "\n".join([*lines, *([f"- Refused: {more} more"] if more > 0 else [])])


def _metrics(found: Measured) -> str:
    if not found.rows:
        return found.note
    header = ["measured on", *found.names]
    lines = [_row(header), _row(["---"] * len(header))]
    lines += [_row([_safe(name), *cells]) for name, cells in found.rows]
    return "\n".join(lines) + f"\n\n{found.note}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _gates(release: Release) -> str:
    report = report_of(release)
    if report is None:
        return "No gate looked at this release."
    lines = [_row(["gate", "slice", "state", "what"]), _row(["---"] * 4)]
    lines += [_row([found.gate, _safe(found.slice), found.state, _safe(found.what)]) for found in report.findings]
    looked = f" The evaluation set had been looked at {report.looks} times." if report.evaluation else ""
    return f"Verdict: {_safe(report.sentence)}.{looked}\n\n" + "\n".join(lines)


def _limits(manifest: Manifest, experiment: Experiment | None) -> str:
    lines = [
        "- Measured only on the rows named above; nothing is known of other texts, languages or groups of people.",
        *LIMITS.get(manifest.task.name, _label_limits)(manifest, experiment),
    ]
    if TASKS[manifest.task.name].opens_in_transformers:
        lines.append(f"- Texts are cut after {manifest.task.max_length} tokens.")
    if manifest.verdict == "held":
        lines.append("- Its gates held this release back: it was never meant to serve.")
    return "\n".join(lines)


def _label_limits(manifest: Manifest, experiment: Experiment | None) -> list[str]:
    del experiment
    return [
        "- Scores are the model's own softmax and are not calibrated.",
        f"- It knows the labels {_some(manifest.task.labels)} and answers with one of them, whatever it is given.",
    ]


def _many_limits(manifest: Manifest, experiment: Experiment | None) -> list[str]:
    del experiment
    return [
        "- Scores are the model's own, one a label, and are not calibrated; a label is told where its score is above 0.5.",
        f"- It knows the labels {_some(manifest.task.labels)}; a text may have none of them, or several.",
    ]


def _number_limits(manifest: Manifest, experiment: Experiment | None) -> list[str]:
    del manifest
    lines = [f"- It says {_numbers(experiment)}, whatever it is given, and not how sure it is."]
    if experiment is None or experiment.data.range is None:
        return lines
    near = experiment.data.scale.near * experiment.data.scale.unit
    return [*lines, f"- Accuracy is the share of texts whose number is within {near:g} of the true one."]


WRITES = {
    "causal-lm": "goes on with a text as texts of its sources do",
    "masked-lm": "fills gaps as texts of its sources would",
    "seq2seq": "writes as its sources do",
}


def _language_limits(manifest: Manifest, experiment: Experiment | None) -> list[str]:
    del experiment
    return [
        f"- It {WRITES[manifest.task.name]}, and states as readily what is wrong as what is right.",
        "- Without differential privacy it may repeat what it was trained on, word by word.",
    ]


LIMITS = {
    **dict.fromkeys(TELLING, _language_limits),
    "multi-label-classification": _many_limits,
    "regression": _number_limits,
}
"""Of tasks that do not answer with one label."""


def _lineage(release: Release) -> str:
    manifest = release.manifest
    files: Mapping[str, str] = manifest.base.files
    weights = [f"{_safe(name)} {sha256}" for name, sha256 in sorted(files.items()) if name.endswith(".safetensors")]
    versions = ", ".join(f"{_safe(name)} {_safe(value)}" for name, value in sorted(manifest.environment.items()))
    lines = [
        f"- Release: {release.digest}",
        f"- Made from: {', '.join(manifest.parents) or 'the base alone'}",
        f"- Base: {_base(manifest)}" + (f" ({'; '.join(weights)})" if weights else ""),
        f"- Computed with: {versions}",
    ]
    return "\n".join(lines)
