"""Telling tokens that were hidden, from unlabelled text: an encoder learns the words of a field before it learns a task.

An item is a hidden token; it is ``right`` or ``wrong``. A text is cut into pieces of at most ``training.max_length`` tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedrelease.data.cells import Example
from fedrelease.data.masks import mask_id, tokenise_masked
from fedrelease.data.tokens import Tokenizer
from fedrelease.errors import ExperimentError
from fedrelease.experiment import Model
from fedrelease.experiment_sections import RIGHT
from fedrelease.files import Json
from fedrelease.tasks.causal_lm import CAUSAL_LM
from fedrelease.tasks.contract import AnyBatch, Asked, Judged
from fedrelease.wording import plain

__all__ = ["MASKED_LM", "Filled"]

LIKELY = 3
"""Words that are told of each mask."""


def _encode(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> dict[str, Tensor]:
    del labels
    return tokenise_masked([one.text for one in examples], RIGHT, tokenizer, max_length)


def _build(base: Any, model: Model, *, seed: int) -> Any:
    from fedrelease.models.masked_model import build_masked_model

    return build_masked_model(base, model, seed=seed)


def _judge(told: Tensor, batch: AnyBatch, labels: Sequence[str]) -> Judged:
    judged = CAUSAL_LM.judge(told, batch, labels)
    return replace(judged, sums=judged.sums[:, :1])


def _no_detail(labels: Sequence[str]) -> tuple[str, ...]:
    del labels
    return ()


@dataclass(frozen=True, kw_only=True)
class Filled:
    """The most likely words of each mask of a text, with how likely they are, likeliest first."""

    text: str
    masks: tuple[tuple[tuple[str, float], ...], ...]

    def document(self) -> dict[str, Json]:
        """Text and masks."""
        masks: list[Json] = [[{"word": word, "score": round(score, 4)} for word, score in one] for one in self.masks]
        return {"text": self.text, "masks": masks}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """One line a mask."""
        texts = [plain(self.text), *[""] * (len(self.masks) - 1)]
        told = [", ".join(f'"{plain(word)}" {score:.2f}' for word, score in one) for one in self.masks]
        return [{"text": text, "likely words": words} for text, words in zip(texts, told, strict=True)]


def _predict(asked: Asked) -> list[Filled]:
    from fedrelease.models.masked_model import likely

    tokenizer: Any = asked.tokenizer
    mask, found = mask_id(asked.tokenizer), []
    for text in asked.texts:
        given = tokenizer(text, truncation=True, max_length=asked.max_length, return_token_type_ids=False)["input_ids"]
        if mask not in given:
            rule = f"a text hides the words that are to be told behind {tokenizer.mask_token}"
            hint = f'for example "a warm and {tokenizer.mask_token} film"'
            raise ExperimentError("a text hides no word", value=text, rule=rule, hint=hint)
        told = likely(asked.model, torch.tensor([given]), mask, count=LIKELY)
        masks = tuple(tuple((tokenizer.decode([word]).strip(), score) for word, score in one) for one in told)
        found.append(Filled(text=text, masks=masks))
    return found


MASKED_LM = replace(
    CAUSAL_LM,
    name="masked-lm",
    encode=_encode,
    build=_build,
    judge=_judge,
    detail=_no_detail,
    predict=_predict,
    continues=False,
)
