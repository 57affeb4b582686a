"""What a site's steps make small: the task's losses as the experiment asks for them, of rows as it changes them.

Example::

    aim = aim_of(experiment, model, rows, labels=request.labels, fill=None)     # before anything is charged
    with aimed(model, rows, aim, key=key) as losses:
        losses(indices, step).backward()                  # the rows' losses in nats, added up
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

from torch import Tensor, nn

from fedrelease.augment import Augment
from fedrelease.client.augmentation import Fill, moved_images, without_tokens
from fedrelease.client.draws import Draws
from fedrelease.client.dropout import dropping
from fedrelease.data.row_files import Rows
from fedrelease.data.tokens import Batch, TokenRows
from fedrelease.data.vectors import VectorBatch, VectorRows
from fedrelease.errors import ModelError
from fedrelease.experiment import Experiment
from fedrelease.models.checkpoints import recomputed
from fedrelease.models.images import ImageClassifier
from fedrelease.models.tasks import task_of
from fedrelease.tasks.contract import AnyBatch, Task
from fedrelease.tasks.loss_options import PLAIN, LossOptions, balanced_weights, named_weights

__all__ = ["Aim", "Losses", "aim_of", "aimed", "task_losses"]

Change: TypeAlias = Callable[[AnyBatch, Draws], AnyBatch]
Losses: TypeAlias = Callable[[Tensor, int], Tensor]
"""From row numbers and the step, counted over the whole plan, to their losses in nats, added up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """How training differs from evaluation; by default in nothing.

    Attributes:
        loss: what is asked of the task's losses.
        change: what becomes of rows before the model sees them; ``None`` = nothing.
        dropout: share that is dropped.
        checkpointing: whether layers are computed again on the way back.
    """

    loss: LossOptions = PLAIN
    change: Change | None = None
    dropout: float = 0.0
    checkpointing: bool = False


def aim_of(experiment: Experiment, model: nn.Module, rows: Rows, *, labels: Sequence[str], fill: Fill | None) -> Aim:
    """What the experiment asks of a site with these rows.

    Raises:
        ModelError: the model or its tokenizer cannot do it.
    """
    training = experiment.training
    weights = named_weights(training.class_weights, labels)
    if training.balance_classes:
        weights = balanced_weights(_truth(rows), len(labels))
    aim = Aim(
        loss=LossOptions(smoothing=training.label_smoothing, weights=weights),
        change=_change(training.augment, model, rows, experiment.data.pixels, fill),
        dropout=training.dropout,
        checkpointing=training.checkpointing,
    )
    task_losses(task_of(model), aim.loss)
    with dropping(model, aim.dropout), recomputed(model) if aim.checkpointing else nullcontext():
        return aim


def _truth(rows: Rows) -> Tensor:
    """The label of each row, or of each of its words."""
    targets = rows.targets if isinstance(rows, TokenRows) else None
    return rows.labels if targets is None else targets


def _change(augment: Augment, model: nn.Module, rows: Rows, pixels: str, fill: Fill | None) -> Change | None:
    if augment.tokens:
        return partial(_less, augment.tokens, _known(fill))
    if augment.changes_images:
        sizes = _sizes(model, rows, pixels)
        return lambda batch, draws: moved_images(cast(VectorBatch, batch), draws, sizes, augment)
    return None


def _known(fill: Fill | None) -> Fill:
    if fill is None:
        raise ModelError(
            "it is not known what takes the place of a token",
            value="training.augment.tokens",
            rule="a site that changes texts has the tokenizer of its base",
            hint="leave training.augment.tokens out",
        )
    return fill


def _less(share: float, fill: Fill, batch: AnyBatch, draws: Draws) -> AnyBatch:
    return without_tokens(cast(Batch, batch), draws, share=share, fill=fill)


def _sizes(model: nn.Module, rows: Rows, pixels: str) -> tuple[int, int, int]:
    """Channels, height and width of a row's image."""
    if isinstance(model, ImageClassifier):
        return model.shape.sizes
    colours, height, width = (int(size) for size in pixels.split("x"))
    if not isinstance(rows, VectorRows) or rows.width != colours * height * width:
        raise ModelError(
            "it is not known what shape the images have",
            value=pixels,
            rule="with training.augment and a base of linear layers, data.pixels is channels x height x width of a row",
            hint="set data.pixels, for example to 1x28x28, or choose a base such as cnn:1x28x28-16-32",
        )
    return colours, height, width


def task_losses(task: Task, options: LossOptions) -> Callable[[Tensor, AnyBatch], Tensor]:
    """The task's losses in training; without options its plain ones.

    Raises:
        ModelError: the task has no labels that could be smoothed or weighed.
    """
    if options.is_plain:
        return task.losses
    if task.shaped is None:
        raise ModelError(
            "the task's loss cannot be changed",
            value=task.name,
            rule="training.label_smoothing, training.class_weights and training.balance_classes are for classification",
            hint="leave them out",
        )
    shaped = task.shaped
    return lambda output, batch: shaped(output, batch, options)


@contextmanager
def aimed(model: nn.Module, rows: Rows, aim: Aim, *, key: str) -> Iterator[Losses]:
    """A function that gives the losses of rows in a step, for as long as the block runs.

    Guarantees: a row's loss depends on that row, the step and ``key`` alone, not on the rows beside it.
    """
    losses = task_losses(task_of(model), aim.loss)
    again = recomputed(model) if aim.checkpointing else nullcontext()
    with dropping(model, aim.dropout) as masks, again:

        def summed(indices: Tensor, step: int) -> Tensor:
            batch: AnyBatch = rows.batch(indices)
            masks.draws = draws = Draws(key=key, step=step, rows=indices)
            if aim.change is not None:
                batch = aim.change(batch, draws)
            return losses(model(*batch.inputs), batch).sum()

        yield summed
