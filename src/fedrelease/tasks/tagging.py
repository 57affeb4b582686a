"""What a model of tags says of texts: each word's tag, and the entities that they make.

Example::

    said = predict(asked)[0]
    said.words, said.tags            # (('Ada', 'Lovelace', 'wrote'), ('B-person', 'I-person', 'O'))
    said.entities[0].text            # 'Ada Lovelace'
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias, cast

import torch

from fedrelease.data.targets import tokenise_words
from fedrelease.data.tokens import IGNORED, Batch
from fedrelease.files import Json
from fedrelease.tasks.contract import Asked
from fedrelease.tasks.entities import entities, word_spans
from fedrelease.wording import number, plain

__all__ = ["Entity", "TagPrediction", "predict"]

Told: TypeAlias = dict[int, tuple[int, float]]
"""Place of a word: place of its tag, and that tag's probability."""
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A name in a text: ``text[start:end]``. ``score``: the mean of its words' (softmax, not calibrated)."""

    type: str
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class TagPrediction:
    """Each word's most likely tag with its probability, and the entities that the tags make, in the order of the text."""

    text: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...]
    entities: tuple[Entity, ...]
    starts: tuple[int, ...]

    def document(self) -> dict[str, Json]:
        """Words, tags, scores and entities; ``start`` and ``end`` count characters of the text."""
        found: list[Json] = [asdict(one) for one in self.entities]
        words: dict[str, Json] = {"words": list(self.words), "tags": list(self.tags), "scores": list(self.scores)}
        return {"text": self.text, **words, "entities": found}

    def lines(self) -> Sequence[Mapping[str, str]]:
        """A line a word, with the entity that begins there; an empty one between texts."""
        named = {one.start: one for one in self.entities}
        rows = [self._line(*row, named) for row in zip(self.words, self.tags, self.scores, self.starts, strict=True)]
        return [*rows, dict.fromkeys(rows[0], "")] if rows else []

    def _line(self, word: str, tag: str, score: float, start: int, named: Mapping[int, Entity]) -> Mapping[str, str]:
        one = named.get(start)
        entity = {"entity": "", "its score>": ""}
        if one is not None:
            entity = {"entity": f"{one.type}: {plain(one.text)}", "its score>": number(one.score)}
        return {"word": plain(word), "tag": tag, "score>": number(score), **entity}


def predict(asked: Asked) -> list[TagPrediction]:
    """Tags of every word, however long the text is: what does not fit into ``max_length`` tokens goes through after the rest."""
    spans = [word_spans(text) for text in asked.texts]
    words = [[text[start:end] for start, end in own] for text, own in zip(asked.texts, spans, strict=True)]
    told: list[Told] = [{} for _ in words]
    begins = dict.fromkeys((place for place, own in enumerate(words) if own), 0)
    while begins:
        begins = _one_pass(asked, words, told, begins)
    return [_said(*one, asked.labels) for one in zip(asked.texts, words, spans, told, strict=True)]


def _one_pass(asked: Asked, words: Sequence[list[str]], told: list[Told], begins: Mapping[int, int]) -> dict[int, int]:
    """Look at each of these texts from its first word without a tag on; return where those that were cut go on.

    The target of a word's first piece is its place, by which it is found again.
    """
    texts, rest = list(begins), [words[text][begin:] for text, begin in begins.items()]
    rows = tokenise_words(rest, [range(len(own)) for own in rest], [0] * len(rest), asked.tokenizer, asked.max_length)
    cut: dict[int, int] = {}
    for places, batch, logits in asked.run(rows):
        targets = cast(torch.Tensor, cast(Batch, batch).targets)
        for place, own, found in zip(places.tolist(), targets, logits, strict=True):
            text, kept = texts[place], own != IGNORED
            best = torch.softmax(found[kept], dim=1).max(dim=1)
            seen = [begins[text] + word for word in own[kept].tolist()]
            told[text].update(zip(seen, zip(best.indices.tolist(), best.values.tolist(), strict=True), strict=True))
            if seen and seen[-1] + 1 < len(words[text]):
                cut[text] = seen[-1] + 1
    return cut


def _said(text: str, words: Sequence[str], spans: Sequence[Span], told: Told, labels: Sequence[str]) -> TagPrediction:
    """A word of which the tokenizer leaves nothing has the first label, and score 0."""
    found = [told.get(place, (0, 0.0)) for place in range(len(words))]
    tags, scores = [labels[tag] for tag, _ in found], [round(score, 6) for _, score in found]
    return TagPrediction(
        text=text,
        words=tuple(words),
        tags=tuple(tags),
        scores=tuple(scores),
        entities=tuple(_entity(text, spans, scores, *one) for one in sorted(entities(tags), key=lambda one: one[1])),
        starts=tuple(start for start, _ in spans),
    )


def _entity(text: str, spans: Sequence[Span], scores: Sequence[float], kind: str, first: int, after: int) -> Entity:
    start, end = spans[first][0], spans[after - 1][1]
    score = round(sum(scores[first:after]) / (after - first), 6)
    return Entity(type=kind, text=text[start:end], score=score, start=start, end=end)
