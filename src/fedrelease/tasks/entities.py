"""Names in texts: words, the spans that tags make of them, and how many spans were found rightly.

Example::

    entities(["B-person", "I-person", "O"])                  # {('person', 0, 2)}
    [text[begin:end] for begin, end in word_spans("Ada Lovelace, London.")]        # ['Ada', 'Lovelace', ',', 'London', '.']

Tags are in the BIO scheme: ``B-person`` begins a name, ``I-person`` goes on with it, ``O`` is none.
"""

import re
from collections.abc import Mapping, Sequence

__all__ = ["BY_TYPE", "by_type", "entities", "entity_counts", "entity_types", "word_spans"]

BY_TYPE = ("entities", "entities_found", "entities_right")
"""What is counted: spans that are there, that were found, and that were found with the right words and type."""
_OPENING, _CLOSING = "\"'\u201c\u2018«([{<¿¡", "\"'\u201d\u2019»)]}>.,;:!?…"
_CHUNK = re.compile(r"\S+")
_CLOSINGS = re.compile(r"(\.{2,}|[" + re.escape(_CLOSING) + r"])$")


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first word and word after the last of each span; an ``I-`` that continues nothing begins one, as in CoNLL's script.

    Source: Tjong Kim Sang and De Meulder (2003), https://arxiv.org/abs/cs/0306050, section 2.
    """
    found, start, open_type = set[tuple[str, int, int]](), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, dash, kind = tag.partition("-")
        kind = kind if dash and mark in ("B", "I") else ""
        if open_type and (mark == "B" or kind != open_type):
            found.add((open_type, start, place))
            open_type = ""
        if kind and not open_type:
            start, open_type = place, kind
    return found


def entity_types(labels: Sequence[str]) -> tuple[str, ...]:
    """The types that labels name, sorted; none where they are no BIO tags, as parts of speech are not."""
    parts = (label.partition("-") for label in labels)
    return tuple(sorted({kind for mark, dash, kind in parts if mark in ("B", "I") and dash and kind}))


def entity_counts(truth: Sequence[str], predicted: Sequence[str], types: Sequence[str]) -> list[int]:
    """Spans there, found and right of one text: of all types, then of each of ``types``."""
    there, found = entities(truth), entities(predicted)
    right = there & found
    counts = [len(there), len(found), len(right)]
    for kind in types:
        counts += [sum(one[0] == kind for one in spans) for spans in (there, found, right)]
    return counts


def by_type(sums: Sequence[float], types: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """Precision, recall, F1 and support of each type, from the sums of :func:`entity_counts` over texts."""
    return {kind: _scored(*sums[3 * place : 3 * place + 3]) for place, kind in enumerate(types, start=1)}


def _scored(there: float, found: float, right: float) -> Mapping[str, float]:
    return {
        "precision": right / found if found else 0.0,
        "recall": right / there if there else 0.0,
        "f1": 2 * right / (there + found) if there + found else 0.0,
        "support": there,
    }


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: between spaces, with quotes, brackets and stops at their ends apart.

    Corpora with tags come cut into words; a text that somebody asks about does not.
    """
    return [span for chunk in _CHUNK.finditer(text) for span in _split(chunk[0], chunk.start())]


def _split(chunk: str, start: int) -> list[tuple[int, int]]:
    opened, end = 0, len(chunk)
    while opened < end - 1 and chunk[opened] in _OPENING:
        opened += 1
    closed: list[tuple[int, int]] = []
    while end - opened > 1 and (mark := _CLOSINGS.search(chunk, opened + 1, end)):
        closed.append((mark.start(), end))
        end = mark.start()
    spans = [*((place, place + 1) for place in range(opened)), (opened, end), *reversed(closed)]
    return [(start + begin, start + stop) for begin, stop in spans]
