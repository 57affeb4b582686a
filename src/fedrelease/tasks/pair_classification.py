"""One label for two texts, such as whether one follows from the other. An item is a pair.

Rows with the same first text lie on one side, training or hold-out, of their site.

Example::

    fedrelease predict --separator "|" "Who wrote Hamlet ? | a person"
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from fedrelease.data.cells import Cells, Example
from fedrelease.data.pairs import tokenise_pairs
from fedrelease.data.tokens import Tokenizer
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Data
from fedrelease.files import Json
from fedrelease.tasks.contract import Asked, Sample
from fedrelease.tasks.text_classification import TEXT_CLASSIFICATION, likeliest
from fedrelease.wording import number, plain

__all__ = ["PAIR_CLASSIFICATION", "PairPrediction"]


def _read(cells: Cells, data: Data) -> Example:
    first, second = cells.text(data.text), cells.text(str(data.text_pair))
    label = cells.label(data.label)
    return Example(text=first, label=label, content=[first, second, cells.labels[label]])


def _pair(example: Example) -> tuple[str, str]:
    first, second, _ = cast(list[str], example.content)
    return first, second


def _whole(example: Example) -> str:
    return "\n".join(_pair(example))


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    return tokenise_pairs([_pair(one) for one in examples], [one.label for one in examples], tokenizer, max_length)


@dataclass(frozen=True, kw_only=True)
class PairPrediction:
    """The most likely label of a pair, and its probability by the model's own softmax (not calibrated)."""

    text: str
    text_pair: str
    label: str
    score: float

    def document(self) -> dict[str, Json]:
        """Both texts, label and score."""
        return {"text": self.text, "text_pair": self.text_pair, "label": self.label, "score": self.score}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line."""
        texts = {"text": plain(self.text), "second text": plain(self.text_pair)}
        return [{"label": self.label, "score>": number(self.score), **texts}]


def _predict(asked: Asked) -> list[PairPrediction]:
    pairs = [_cut(text, asked.separator) for text in asked.texts]
    said = likeliest(asked, tokenise_pairs(pairs, [0] * len(pairs), asked.tokenizer, asked.max_length))
    return [
        PairPrediction(text=first, text_pair=second, label=one.label, score=one.score)
        for (first, second), one in zip(pairs, said, strict=True)
    ]


def _cut(text: str, separator: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split(separator)]
    if len(parts) != 2 or not all(parts):
        mark = "a tab" if separator == "\t" else repr(separator)
        raise ExperimentError(
            "this is no pair of texts",
            value=text,
            rule=f"two texts with {mark} between them, once",
            hint='--separator names another mark: --separator "|" "It rains | The street is wet"',
        )
    return parts[0], parts[1]


PAIR_CLASSIFICATION = replace(
    TEXT_CLASSIFICATION,
    name="pair-classification",
    columns=("text", "text_pair", "label"),
    read=_read,
    whole=_whole,
    encode=_encode,
    predict=_predict,
    pairs=True,
    sample=Sample(data=Data(text_pair="text_pair")),
)
