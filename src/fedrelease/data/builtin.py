"""The built-in text sources: their natural labels, and how their files become rows.

Example::

    BUILT_IN["trec"].labels                       # ('ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM')
    rows = BUILT_IN["trec"].read(fetch("trec", cache=cache_folder()))
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrelease.data.rows import RawRow

__all__ = ["BUILT_IN", "BuiltIn"]

_SITES = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
_LEAST_RATING = 0.5


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A built-in source: its labels, its columns, and the reader of its fetched folder."""

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Path], Iterator[RawRow]]


def _four_sites(folder: Path) -> Iterator[RawRow]:
    """Human ratings from -4 to 4: the sign is the label, and ratings nearer to 0 than 0.5 are left out."""
    for site, name in _SITES.items():
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            _, rating, text = line.split("\t")
            if abs(float(rating)) >= _LEAST_RATING:
                label = "positive" if float(rating) > 0 else "negative"
                yield RawRow(line=number, values={"text": text, "label": label, "site": site})


def _sms_spam(folder: Path) -> Iterator[RawRow]:
    """Text messages; a text that was seen before is left out, since copies would leak into the hold-out."""
    content = (folder / "sms-spam.csv").read_text(encoding="utf-8")
    reader = csv.reader(io.StringIO(content, newline=""))
    next(reader)
    seen: set[str] = set()
    for number, (_, spam, text) in enumerate(reader, start=2):
        if text not in seen:
            seen.add(text)
            yield RawRow(line=number, values={"text": text, "label": "spam" if spam == "1" else "ham"})


def _trec(folder: Path) -> Iterator[RawRow]:
    """Questions; ``NUM:date When was ...`` gives the coarse class ``NUM``; repeated questions are left out."""
    seen: set[str] = set()
    for number, line in enumerate((folder / "question_labels.txt").read_text(encoding="utf-8").split("\n"), start=1):
        kind, _, text = line.partition(" ")
        if text and text not in seen:
            seen.add(text)
            yield RawRow(line=number, values={"text": text, "label": kind.partition(":")[0]})


BUILT_IN: Mapping[str, BuiltIn] = {
    "four-sites": BuiltIn(labels=("negative", "positive"), columns=("text", "label", "site"), read=_four_sites),
    "sms-spam": BuiltIn(labels=("ham", "spam"), columns=("text", "label"), read=_sms_spam),
    "trec": BuiltIn(labels=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"), columns=("text", "label"), read=_trec),
}
