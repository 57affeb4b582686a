"""One way to train every weight of a text model, in a process of its own: how long a step takes, how much memory it adds.

Example (the benchmark types this)::

    python -m fedrelease.simulations.bench.full_step task.json        # prints one JSON document

Opacus' two ways go through torch's own layers, and are given positions row by row, without which they take the gradient of all
examples' positions for that of the first one.
"""

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional

from fedrelease.client.private_step import private_stepper
from fedrelease.client.sampling import Seeded, seeded_generator
from fedrelease.client.training import training_mode
from fedrelease.experiment import Adapter, Model
from fedrelease.models.bases import open_base
from fedrelease.models.classifier import TextClassifier, build_classifier
from fedrelease.models.per_example import plain_layers
from fedrelease.privacy import PrivacyPlan

__all__ = ["WAYS", "main", "stepper"]

CLIP = 1.0
NOISE = 1.0


def _model(folder: str) -> TextClassifier:
    base = open_base(folder, cache=Path(folder))
    model = build_classifier(base, Model(adapter=Adapter(kind="full")), seed=7)
    nn.init.normal_(model.head.weight, generator=seeded_generator("head"))  # at zero nothing goes further back
    return model


def _batch(model: TextClassifier, rows: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random words, every row as long as the others; labels in turns."""
    words = int(model.encoder.config.vocab_size)  # type: ignore[union-attr, arg-type]
    ids = torch.randint(4, words, (rows, tokens), generator=seeded_generator("words"))
    return ids, torch.ones_like(ids), torch.arange(rows) % 2


@contextmanager
def _plain(model: TextClassifier, rows: int) -> Iterator[Callable[..., None]]:
    optimizer = _adamw(model)

    def step(ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(ids, mask), labels))
        optimizer.step()

    yield step


@contextmanager
def _books(model: TextClassifier, rows: int) -> Iterator[Callable[..., None]]:
    plan = PrivacyPlan(
        unit="example",
        epsilon=8.0,
        delta=1e-5,
        clip=CLIP,
        accountant="prv",
        sample_rate=1.0,
        batch_size=float(rows),
        steps_per_round=1,
        rounds=1,
        noise_multiplier=NOISE,
    )
    with private_stepper(model, _adamw(model), plan, Seeded(seeded_generator("noise"))) as step:
        yield lambda ids, mask, labels: step(
            [lambda: functional.cross_entropy(model(ids, mask), labels, reduction="sum")]
        )


@contextmanager
def _hooks(model: TextClassifier, rows: int) -> Iterator[Callable[..., None]]:
    with _as_opacus_wants(model):
        hooks = GradSampleHooks(model, loss_reduction="sum")
        optimizer = DPOptimizer(_adamw(model), **_privacy(rows))

        def step(ids: Tensor, mask: Tensor, labels: Tensor) -> None:
            torch.autograd.backward(functional.cross_entropy(model(ids, mask), labels, reduction="sum"))
            optimizer.step()
            optimizer.zero_grad()

        yield step
        hooks.cleanup()


@contextmanager
def _ghost(model: TextClassifier, rows: int) -> Iterator[Callable[..., None]]:
    with _as_opacus_wants(model):
        hooks = GradSampleHooksFastGradientClipping(model, max_grad_norm=CLIP)
        optimizer = DPOptimizerFastGradientClipping(_adamw(model), **_privacy(rows))
        loss = DPLossFastGradientClipping(hooks, optimizer, nn.CrossEntropyLoss())

        def step(ids: Tensor, mask: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad()
            loss(model(ids, mask), labels).backward()
            optimizer.step()

        yield step
        hooks.cleanup()


WAYS: Mapping[str, Callable[[TextClassifier, int], Any]] = {
    "book-keeping": _books,
    "opacus-ghost": _ghost,
    "opacus-hooks": _hooks,
    "plain": _plain,
}


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)


def _privacy(rows: int) -> dict[str, Any]:
    """Settings of Opacus' optimizers: those of ours."""
    generator = seeded_generator("noise")
    return {
        "noise_multiplier": NOISE,
        "max_grad_norm": CLIP,
        "expected_batch_size": rows,
        "loss_reduction": "mean",
        "generator": generator,
    }


@contextmanager
def _as_opacus_wants(model: TextClassifier) -> Iterator[None]:
    def with_positions(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids = named["input_ids"]
        places, kinds = torch.arange(ids.shape[1]).repeat(len(ids), 1), torch.zeros_like(ids)
        return given, {**named, "position_ids": places, "token_type_ids": kinds}

    handle = model.encoder.register_forward_pre_hook(with_positions, with_kwargs=True)
    try:
        with plain_layers(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # ids need no gradient
            yield
    finally:
        handle.remove()


@contextmanager
def stepper(way: str, model: TextClassifier, rows: int) -> Iterator[Callable[..., None]]:
    """A function that makes one step on ids, mask ``[rows, tokens]`` and labels ``[rows]``, as :data:`WAYS` says."""
    with ExitStack() as stack:
        stack.enter_context(training_mode(model))
        yield stack.enter_context(WAYS[way](model, rows))


def main() -> None:
    """Make the steps of a task, then print seconds of each and bytes of memory: before the first step, and at most."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    model = _model(task["base"])
    batch = _batch(model, task["rows"], task["tokens"])
    before, seconds = psutil.Process().memory_info().rss, []
    with stepper(task["way"], model, task["rows"]) as step:
        for _ in range(task["steps"] + 1):  # the first one warms up
            begun = time.process_time()
            step(*batch)
            seconds.append(time.process_time() - begun)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_s": seconds[1:], "before_bytes": before, "peak_bytes": most}))


if __name__ == "__main__":
    main()
