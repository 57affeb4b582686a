"""The formats that a release can be written in, and what each needs.

Example::

    check_format("onnx", merged=False, manifest=release.manifest)      # 'onnx', or an error that says what is wrong
"""

import difflib
import importlib.util
from collections.abc import Mapping

from fedrelease.errors import ExperimentError, ModelError
from fedrelease.experiment_sections import TELLING
from fedrelease.manifest import Manifest
from fedrelease.tasks import TASKS

__all__ = ["FORMATS", "check_format", "check_installed"]

FORMATS = ("hf", "onnx", "int8", "safetensors")
NEEDED = ("onnx", "onnxscript", "onnxruntime")
WHOLE: Mapping[str, str] = {
    "full": "every weight was trained",
    "head": "the head alone was trained",
    "layers": "weights of the base itself were trained",
    "norms": "weights of the base itself were trained",
}
"""Adapters that are no adapter to peft, and why."""
FOREIGN = ("bottleneck", "lora-sb", "prefix")
"""Adapters that neither peft nor transformers has a form for, at least not with our heads and pooling."""
INSTALL = 'pip install -c constraints.txt "fedrelease[export]"'


def check_format(format: str, *, merged: bool, manifest: Manifest) -> str:
    """The name of the variant: the format, or ``hf-merged``.

    Raises:
        ExperimentError: no such format, a flag that does not go with it, or an extra that is not installed.
        ModelError: the release cannot be written so.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"did you mean {near[0]}" if near else "choose one of those"
        raise ExperimentError("unknown format", value=format, rule=f"--format is {', '.join(FORMATS)}", hint=hint)
    if merged and format != "hf":
        rule = "--merged goes with --format hf; the other formats are merged always"
        raise ExperimentError("--merged with another format", value=format, rule=rule, hint="leave --merged out")
    if manifest.task.name in TELLING and format != "hf":
        rule, hint = "a language model is written as transformers and peft open it", "--format hf, or with it --merged"
        raise ModelError(f"{manifest.version} cannot be written so", value=format, rule=rule, hint=hint)
    if manifest.task.name == "masked-lm" and not merged:
        rule, hint = "an encoder that learned to tell hidden words is written as a base", "--format hf --merged"
        raise ModelError(f"{manifest.version} cannot be written so", value=format, rule=rule, hint=hint)
    if format == "hf":
        _check_hugging_face(manifest, merged=merged)
    if format in ("onnx", "int8"):
        check_installed()
    return "hf-merged" if merged else format


def _check_hugging_face(manifest: Manifest, *, merged: bool) -> None:
    if not TASKS[manifest.task.name].opens_in_transformers:
        raise ModelError(
            f"{manifest.version} has no form that transformers opens",
            value=manifest.base.ref,
            rule="transformers has no class for its layers with this head",
            hint="--format onnx or --format safetensors",
        )
    if manifest.adapter.kind in FOREIGN:
        language = manifest.task.name == "causal-lm"
        raise ModelError(
            f"{manifest.version} has no factors that peft knows",
            value=manifest.adapter.kind,
            rule="--format hf is for LoRA factors and prompts, or with --merged for weights of the base",
            hint="fedrelease predict answers with it" if language else "--format onnx or --format safetensors",
        )
    if manifest.adapter.kind == "prompt" and merged:
        raise ModelError(
            f"{manifest.version} cannot be merged",
            value=manifest.adapter.kind,
            rule="vectors before the text are no part of the base's weights",
            hint="--format hf, which peft opens",
        )
    if manifest.adapter.kind in WHOLE and not merged:
        raise ModelError(
            f"{manifest.version} has no adapter",
            value=manifest.adapter.kind,
            rule=f"{WHOLE[manifest.adapter.kind]}, so that there are no factors that peft could open",
            hint="--format hf --merged",
        )


def check_installed() -> None:
    """Refuse to go on without what ONNX takes.

    Raises:
        ExperimentError: some of it is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what, rule = f"{', '.join(missing)} is not installed", "ONNX needs the optional extra 'export'"
        raise ExperimentError(what, value="--format onnx or int8", rule=rule, hint=INSTALL)
