"""One label for a text. An item is a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedrelease.data.cells import Cells, Example
from fedrelease.data.tokens import Tokenizer, tokenise
from fedrelease.experiment import Data, Model
from fedrelease.files import Json
from fedrelease.tasks.contract import AnyBatch, Asked, Judged, Task
from fedrelease.tasks.loss_options import LossOptions
from fedrelease.wording import number, plain

__all__ = ["TEXT_CLASSIFICATION", "LabelPrediction", "judge", "likeliest", "losses"]


def _read(cells: Cells, data: Data) -> Example:
    return Example(text=cells.text(data.text), label=cells.label(data.label))


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    return tokenise([one.text for one in examples], [one.label for one in examples], tokenizer, max_length)


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.classifier import build_classifier

    return build_classifier(base, model, seed=seed)


def losses(logits: Tensor, batch: AnyBatch) -> Tensor:
    """Cross-entropy of each row, float32 ``[rows]``."""
    return functional.cross_entropy(logits, batch.labels, reduction="none")


def _shaped(logits: Tensor, batch: AnyBatch, options: LossOptions) -> Tensor:
    return options.cross_entropy(logits, batch.labels)


def judge(logits: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    """The most likely label of each row."""
    del labels
    rows = len(batch.labels)
    return Judged(
        row=torch.arange(rows),
        truth=batch.labels,
        predicted=logits.argmax(1),
        loss=losses(logits, batch),
        sums=torch.zeros(rows, 0, dtype=torch.float64),
    )


@dataclass(frozen=True, kw_only=True)
class LabelPrediction:
    """The most likely label of a text, and its probability by the model's own softmax (not calibrated)."""

    text: str
    label: str
    score: float

    def document(self) -> dict[str, Json]:
        """Text, label and score."""
        return {"text": self.text, "label": self.label, "score": self.score}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        return [{"label": self.label, "score>": number(self.score), "text": plain(self.text)}]


def _predict(asked: Asked) -> list[LabelPrediction]:
    return likeliest(asked, tokenise(asked.texts, [0] * len(asked.texts), asked.tokenizer, asked.max_length))


def likeliest(asked: Asked, rows: Mapping[str, Tensor]) -> list[LabelPrediction]:
    """The most likely label of each encoded row, under the text that was given for it."""
    found: dict[int, LabelPrediction] = {}
    for places, _, logits in asked.run(rows):
        best = torch.softmax(logits, dim=1).max(dim=1)
        for place, score, label in zip(places.tolist(), best.values.tolist(), best.indices.tolist(), strict=True):
            told = LabelPrediction(text=asked.texts[place], label=asked.labels[label], score=round(score, 6))
            found[place] = told
    return [found[place] for place in range(len(asked.texts))]


TEXT_CLASSIFICATION = Task(
    name="text-classification",
    columns=("text", "label"),
    read=_read,
    encode=_encode,
    build=_build,
    losses=losses,
    shaped=_shaped,
    judge=judge,
    predict=_predict,
    opens_in_transformers=True,
)
