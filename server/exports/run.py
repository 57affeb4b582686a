"""One export from beginning to end: written, checked against its release, put in its place, recorded.

Example::

    done = export(store, store.find("stable"), Wanted(format="onnx"), cache=cache_folder())
    done.folder, done.variant.verdict                        # (Path('export/tiny-0.1.2-onnx'), 'pass')
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from fedrelease.data.row_files import Rows
from fedrelease.gate_rules import QualityRule
from fedrelease.server.base_names import public_name
from fedrelease.server.card import card
from fedrelease.server.exports import gate, hugging_face
from fedrelease.server.exports.compared import logits_of, reference_logits
from fedrelease.server.exports.flat import open_flat, write_flat, write_labels
from fedrelease.server.exports.folder import Marker, files_in, new_folder
from fedrelease.server.exports.formats import check_format
from fedrelease.server.exports.gate import AgreementRule, LogitsRule
from fedrelease.server.exports.onnx_file import open_session, quantise, run, write_onnx
from fedrelease.server.exports.plain import Plain, plain_model
from fedrelease.server.exports.rows import CheckRows, check_rows
from fedrelease.server.exports.timing import timed
from fedrelease.server.gates.contract import Finding
from fedrelease.server.recipe import RECIPES, Given, recipe
from fedrelease.server.release import Release, experiment_of
from fedrelease.server.store import Store
from fedrelease.server.variants import Variant, attach_variant
from fedrelease.tasks import TASKS
from fedrelease.tasks.contract import Task

__all__ = ["Exported", "Wanted", "export"]

MODEL = {"onnx": "model.onnx", "int8": "model.int8.onnx"}
FEW = 64
"""Rows on which a form that should give the very same numbers is compared."""
EXACT, TRACED = LogitsRule(most=1e-5), LogitsRule(most=1e-4)
Answer: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asks for. ``rows``: a file with columns text and label. ``finish``: signs a finished folder."""

    format: str
    merged: bool = False
    out: Path | None = None
    rows: Path | None = None
    finish: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where it lies, and what is recorded about it."""

    folder: Path
    variant: Variant


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every step needs."""

    release: Release
    plain: Plain
    rows: CheckRows
    folder: Path
    tell: Callable[[str], None]

    @property
    def task(self) -> Task:
        """What the release is for."""
        return TASKS[self.plain.task]

    @property
    def unit(self) -> str:
        """What logits are of."""
        return "tokens" if self.plain.by_token else "rows"

    @property
    def parent(self) -> str:
        """How findings call the release."""
        return f"release {self.release.version}"

    def both(self, answer: Answer, rows: Rows) -> tuple[Tensor, Tensor]:
        """Its logits on the rows, and those of the release itself."""
        self.tell(f"comparing it with the release on {len(rows)} rows")
        found = self.plain.in_halves(logits_of(answer, rows, self.plain.inputs))
        return found, reference_logits(self.release, self.plain.base, rows)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """What came of the checks on some number of rows."""

    rows: int
    findings: tuple[Finding, ...]
    measured: dict[str, float]


def export(
    store: Store, release: Release, wanted: Wanted, *, cache: Path, tell: Callable[[str], None] = lambda step: None
) -> Exported:
    """Write a release in a format, compare it with the release, and record it as a variant.

    Args:
        tell: told each step in a few words.

    Guarantees: the folder appears whole or not at all, and takes the place only of an earlier export of the same kind that
        nobody has touched. A variant whose gate does not pass is written and recorded as not servable.

    Raises:
        ExperimentError: no such format, or an extra is missing.
        ModelError: the release cannot be written so, or its base is not here.
        StoreError: the folder holds something else, or the store is somebody else's now.
    """
    name = check_format(wanted.format, merged=wanted.merged, manifest=release.manifest)
    out = wanted.out or Path("export") / f"{release.manifest.name}-{release.version}-{name}"
    marker = Marker(name=release.manifest.name, version=release.version, digest=release.digest, format=name)
    with new_folder(out, marker, finish=wanted.finish) as folder:
        tell("reading the release")
        plain = plain_model(release, cache=cache)
        with check_rows(plain, experiment_of(release), file=wanted.rows, cache=cache) as rows:
            checked = WRITERS[name](_Work(release=release, plain=plain, rows=rows, folder=folder, tell=tell))
            source = f"{checked.rows} rows: {rows.source}"
        files, size = files_in(folder), sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    variant = Variant(
        version=release.version,
        digest=release.digest,
        format=name,
        files=files,
        size_bytes=size,
        rows=source,
        measured={**checked.measured, "bytes": float(size)},
        findings=checked.findings,
    )
    tell("recording it")
    with store.lock():
        attach_variant(store, variant)
    return Exported(folder=out, variant=variant)


def _adapter(work: _Work) -> _Checked:
    work.tell("writing the adapter")
    hugging_face.write_adapter(work.release, work.plain, work.folder)
    _write_card(work, merged=False)
    return _same(work, hugging_face.open_adapter(work.plain, work.folder), EXACT)


def _merged(work: _Work) -> _Checked:
    work.tell("writing the merged model")
    hugging_face.write_merged(work.plain, work.folder)
    _write_card(work, merged=True)
    return _same(work, hugging_face.open_merged(work.plain, work.folder), EXACT)


def _flat(work: _Work) -> _Checked:
    work.tell("writing one file of weights")
    write_flat(work.plain, work.folder)
    return _same(work, open_flat(work.plain, work.folder), EXACT)


def _onnx(work: _Work) -> _Checked:
    work.tell("tracing the model")
    write_onnx(work.plain, work.folder / MODEL["onnx"])
    write_labels(work.plain, work.folder)
    return _same(work, partial(run, open_session(work.folder / MODEL["onnx"])), TRACED)


def _int8(work: _Work) -> _Checked:
    """The ONNX file that it is made from is no part of it."""
    work.tell("tracing the model")
    whole, small = work.folder / MODEL["onnx"], work.folder / MODEL["int8"]
    write_onnx(work.plain, whole)
    work.tell("quantising it")
    quantise(whole, small)
    theirs, ours = (partial(run, open_session(path)) for path in (whole, small))
    found, wanted = work.both(ours, work.rows.rows)
    manifest, seconds = work.release.manifest, timed(ours, theirs, work.rows.rows, work.plain.inputs)
    sizes = small.stat().st_size, whole.stat().st_size
    whole.unlink()
    write_labels(work.plain, work.folder)
    findings = (
        gate.same_answers(found, wanted, AgreementRule(), against=work.parent, unit=work.unit, task=work.task),
        *gate.not_worse(found, wanted, work.rows, QualityRule(), manifest, against=work.parent),
        *gate.cheaper((sizes[0], seconds[0]), (sizes[1], seconds[1]), manifest, against="its float32 ONNX"),
    )
    measured = _compared(found, wanted, work, seconds)
    return _Checked(rows=len(work.rows.rows), findings=findings, measured=measured)


def _same(work: _Work, answer: Answer, rule: LogitsRule) -> _Checked:
    """The same numbers in another form: a few rows of all lengths tell."""
    every = work.rows.rows
    order = torch.argsort(every.lengths, stable=True)
    few = every.chosen(order[torch.linspace(0, len(every) - 1, min(FEW, len(every))).round().long()])
    found, wanted = work.both(answer, few)
    finding = gate.same_logits(found, wanted, rule, against=work.parent, unit=work.unit)
    return _Checked(rows=len(few), findings=(finding,), measured=_apart(found, wanted, work.task))


def _apart(found: Tensor, wanted: Tensor, task: Task) -> dict[str, float]:
    """Numbers in the unit that their name says; what is not finite is told by a finding, and is no number."""
    same = task.same(found, wanted).double().mean()
    numbers = {"largest_difference": float((found - wanted).abs().max()), "agreement": float(same)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _compared(found: Tensor, wanted: Tensor, work: _Work, seconds: tuple[Tensor, Tensor]) -> dict[str, float]:
    """More of them; accuracies only where rows have labels."""
    numbers = _apart(found, wanted, work.task)
    if work.rows.labelled:
        numbers["accuracy"], numbers["accuracy_before"] = (_accuracy(logits, work) for logits in (found, wanted))
    numbers["median_seconds"], numbers["median_seconds_float32"] = (float(taken.median()) for taken in seconds)
    return numbers


def _accuracy(logits: Tensor, work: _Work) -> float:
    judged = gate.judged(logits, work.rows.rows, work.release.manifest.task)
    return float((judged.predicted == judged.truth).double().mean())


def _write_card(work: _Work, *, merged: bool) -> None:
    base, length = work.plain.base, work.release.manifest.task.max_length
    if work.release.manifest.task.name in RECIPES:
        code = RECIPES[work.release.manifest.task.name](experiment_of(work.release).data, merged=merged)
    else:
        pooling = None if work.plain.by_token else base.pooling
        before = work.release.manifest.adapter.tokens
        segmented = "token_type_ids" in work.plain.inputs
        given = Given(task=work.plain.task, segmented=segmented, before=before)
        code = recipe(public_name(base), pooling, given, max_length=length, merged=merged)
    text = card(work.release, recipe=code, library="transformers" if merged else "peft")
    (work.folder / "README.md").write_text(text, encoding="utf-8")


WRITERS: dict[str, Callable[[_Work], _Checked]] = {
    "hf": _adapter,
    "hf-merged": _merged,
    "int8": _int8,
    "onnx": _onnx,
    "safetensors": _flat,
}
