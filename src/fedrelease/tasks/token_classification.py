"""A tag for each word of a text: names of people and places, parts of speech. An item is a word.

A word is read off its first piece. Entities are spans of words in the BIO scheme (``B-person``, ``I-person``, ``O``): their F1
counts whole spans with the right type, as CoNLL's own script and seqeval do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.cells import BadRow, Cells, Example
from fedrelease.data.targets import tokenise_words
from fedrelease.data.tokens import IGNORED, Batch, Tokenizer
from fedrelease.experiment import Data, Model
from fedrelease.models.metrics import Matrix, scores
from fedrelease.tasks.contract import AnyBatch, Judged, Report, Sample, Sums, Task, class_report
from fedrelease.tasks.entities import BY_TYPE, by_type, entity_counts, entity_types
from fedrelease.tasks.loss_options import PLAIN, LossOptions
from fedrelease.tasks.tagging import predict

__all__ = ["TOKEN_CLASSIFICATION"]

ENTITIES = 0.5
"""With noised metrics, at most so many entities a word (there, found and right: the length of the three)."""
SAMPLE_ROWS: tuple[Mapping[str, object], ...] = (
    {"text": ["a", "good", "film"], "label": [0, 1, 0]},
    {"text": ["the", "plot", "was", "very", "poor", "and", "it", "is", "bad"], "label": [0, 0, 0, 0, 1, 0, 0, 0, 1]},
    {"text": ["it", "is", "quite", "a", "warm", "book"], "label": [0, 0, 0, 0, 1, 0]},
    {"text": ["awful"], "label": [1]},
    {"text": ["the", "book", "was", "fine"], "label": [0, 0, 0, 1]},
    {"text": ["a", "cold", "and", "very", "bad", "film"], "label": [0, 1, 0, 0, 1, 0]},
)


def _read(cells: Cells, data: Data) -> Example:
    words, tags = cells.words(data.text), cells.tags(data.label)
    if len(words) != len(tags):
        raise BadRow(f"{data.text!r} has {len(words)} words and {data.label!r} has {len(tags)} labels")
    named = [cells.labels[tag] for tag in tags]  # by name, so that a fingerprint does not change with the labels' order
    return Example(text=" ".join(words), label=max(tags), content=[list(words), named])


def _named(example: Example, labels: Sequence[str]) -> Sequence[str]:
    del labels
    return cast(tuple[list[str], list[str]], example.content)[1]


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    content = [cast(tuple[list[str], list[str]], one.content) for one in examples]
    place = {label: number for number, label in enumerate(labels)}
    tags = [[place[name] for name in named] for _, named in content]
    own = [one.label for one in examples]
    return tokenise_words([words for words, _ in content], tags, own, tokenizer, max_length)


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.classifier import build_classifier

    return build_classifier(base, model, seed=seed, pooled=False)


def _losses(logits: Tensor, batch: AnyBatch) -> Tensor:
    """The mean over a row's words, so that a long text weighs no more than a short one."""
    return _shaped(logits, batch, PLAIN)


def _shaped(logits: Tensor, batch: AnyBatch, options: LossOptions) -> Tensor:
    targets = cast(Tensor, cast(Batch, batch).targets)
    each = options.cross_entropy(logits.transpose(1, 2), targets)
    return each.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)


def _judge(logits: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    targets = cast(Tensor, cast(Batch, batch).targets)
    words = targets != IGNORED
    truth, chosen = targets[words], logits[words]
    predicted = chosen.argmax(1)
    counts, types = words.sum(1).tolist(), entity_types(labels)
    pairs = zip(torch.split(truth, counts), torch.split(predicted, counts), strict=True)
    return Judged(
        row=words.nonzero()[:, 0],
        truth=truth,
        predicted=predicted,
        loss=functional.cross_entropy(chosen, truth, reduction="none"),
        sums=torch.tensor([_counts(*pair, labels, types) for pair in pairs], dtype=torch.float64).view(len(counts), -1),
    )


def _counts(truth: Tensor, predicted: Tensor, labels: Sequence[str], types: Sequence[str]) -> list[int]:
    named = [[labels[place] for place in tags.tolist()] for tags in (truth, predicted)]
    return entity_counts(named[0], named[1], types)


def _detail(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}/{kind}" for kind in entity_types(labels) for name in BY_TYPE)


def _report(matrix: Matrix, sums: Sums, labels: Sequence[str]) -> Report:
    """Of each tag; and of each type of entity, where the counts of types were told."""
    types = entity_types(labels)
    told = by_type(sums, types) if len(sums) > len(BY_TYPE) else {}
    return {**class_report(matrix, sums, labels), **{f"entity {kind}": row for kind, row in told.items()}}


def _metrics(matrix: Matrix, sums: Sums) -> dict[str, float]:
    """Of words, and precision, recall and F1 of whole entities, but where labels name no entities, as parts of speech do not."""
    there, found, right = (max(0.0, value) for value in sums[: len(BY_TYPE)])
    told = scores(matrix)
    if there + found <= 0 or not told:
        return told
    right = min(right, there, found)
    return {
        **told,
        "entity_f1": 2 * right / (there + found),
        "entity_precision": right / found if found else 0.0,
        "entity_recall": right / there if there else 0.0,
    }


TOKEN_CLASSIFICATION = Task(
    name="token-classification",
    columns=("text", "label"),
    read=_read,
    named=_named,
    encode=_encode,
    build=_build,
    losses=_losses,
    shaped=_shaped,
    judge=_judge,
    sums=BY_TYPE,
    bound=ENTITIES,
    detail=_detail,
    metrics=_metrics,
    report=_report,
    shown=("entity_f1",),
    predict=predict,
    opens_in_transformers=True,
    items_a_row="many",
    skewed=False,
    sample=Sample(rows=SAMPLE_ROWS),
)
