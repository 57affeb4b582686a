"""The built-in text sources: their natural labels, and how their files become rows.

Example::

    BUILT_IN["trec"].labels                       # ('ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM')
    rows = BUILT_IN["trec"].read(fetch("trec", cache=cache_folder()))
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from fedrelease.data.brown import PARTS_OF_SPEECH, brown_rows
from fedrelease.data.conll import conll_rows
from fedrelease.data.pronunciations import with_stress, without_stress
from fedrelease.data.rows import RawRow
from fedrelease.experiment_sections import NEAR, NEXT_TOKEN
from fedrelease.files import digest_bytes
from fedrelease.npm import archive_files

__all__ = ["BUILT_IN", "BuiltIn"]

_SITES = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
_LEAST_RATING = 0.5
_NAMES = (
    "company",
    "facility",
    "geo-loc",
    "movie",
    "musicartist",
    "other",
    "person",
    "product",
    "sportsteam",
    "tvshow",
)
_ASKED_FOR = {
    "ABBR": "an abbreviation or what it stands for",
    "DESC": "a description, a definition or a reason",
    "ENTY": "a thing, such as an animal, a product or a colour",
    "HUM": "a person or a group of people",
    "LOC": "a place",
    "NUM": "a number, a date or an amount",
}


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A built-in source: its labels, its columns, and the reader of its fetched folder.

    Attributes:
        fetched: the alias of what is fetched, where several sources are made of the same files; left out = its own.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Path], Iterator[RawRow]]
    fetched: str | None = None


def _four_sites(folder: Path) -> Iterator[RawRow]:
    """The sign of a rating is the label, and ratings nearer to 0 than 0.5 are left out."""
    for row in _ratings(folder):
        rating = float(str(row.values["rating"]))
        if abs(rating) >= _LEAST_RATING:
            label = "positive" if rating > 0 else "negative"
            yield replace(row, values={"text": row.values["text"], "label": label, "site": row.values["site"]})


def _ratings(folder: Path) -> Iterator[RawRow]:
    """Snippets with human ratings of their sentiment from -4 to 4: means over twenty people."""
    for site, name in _SITES.items():
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            _, rating, text = line.split("\t")
            yield RawRow(line=number, values={"text": text, "rating": rating, "site": site})


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


def _trec_pairs(folder: Path) -> Iterator[RawRow]:
    """Each question once, with what it asks for or with something else: half and half, by the digest of the question."""
    for row in _trec(folder):
        text, own = str(row.values["text"]), str(row.values["label"])
        drawn = int(digest_bytes(text.encode())[:8], 16)
        others = [kind for kind in _ASKED_FOR if kind != own]
        fits = drawn % 2 == 0
        kind = own if fits else others[drawn // 2 % len(others)]
        yield replace(row, values={"text": text, "kind": _ASKED_FOR[kind], "label": "yes" if fits else "no"})


def _wnut(folder: Path) -> Iterator[RawRow]:
    """Tweets, word by word."""
    return conll_rows((folder / "ner.txt").read_text(encoding="utf-8"), width=2)


def _wnut_types(folder: Path) -> Iterator[RawRow]:
    """The same tweets, and which types of names are in each: none, one or several."""
    for row in _wnut(folder):
        words, tags = (cast(list[str], row.values[column]) for column in ("text", "label"))
        types = sorted({tag.partition("-")[2] for tag in tags if tag != "O"})
        yield replace(row, values={"text": " ".join(words), "label": types}, lines=())


def _bio(*types: str) -> tuple[str, ...]:
    return ("O", *(f"{mark}-{kind}" for kind in types for mark in "BI"))


def _sotu(folder: Path) -> Iterator[RawRow]:
    """Speeches, of which there is nothing to label; the only one of its president is left out: a site has at least two rows."""
    files = archive_files(folder / "sotu.tgz", "package/data/", ".json")
    speeches = [json.loads(content) for _, content in files]
    given = Counter(speech["name"] for speech in speeches)
    for number, speech in enumerate(speeches, start=1):
        if given[speech["name"]] > 1:
            values = {"text": speech["text"], "president": speech["name"], "year": str(speech["year"])}
            yield RawRow(line=number, values=values)


BUILT_IN: Mapping[str, BuiltIn] = {
    "brown-pos": BuiltIn(labels=PARTS_OF_SPEECH, columns=("text", "label", "genre"), read=brown_rows),
    "cmudict": BuiltIn(labels=NEXT_TOKEN, columns=("text", "target"), read=without_stress),
    "cmudict-stress": BuiltIn(labels=NEXT_TOKEN, columns=("text", "target"), read=with_stress, fetched="cmudict"),
    "four-sites": BuiltIn(labels=("negative", "positive"), columns=("text", "label", "site"), read=_four_sites),
    "four-sites-ratings": BuiltIn(labels=NEAR, columns=("text", "rating", "site"), read=_ratings, fetched="four-sites"),
    "sms-spam": BuiltIn(labels=("ham", "spam"), columns=("text", "label"), read=_sms_spam),
    "sotu": BuiltIn(labels=NEXT_TOKEN, columns=("text", "president", "year"), read=_sotu),
    "trec": BuiltIn(labels=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"), columns=("text", "label"), read=_trec),
    "trec-pairs": BuiltIn(labels=("no", "yes"), columns=("text", "kind", "label"), read=_trec_pairs, fetched="trec"),
    "wnut": BuiltIn(labels=_bio(*_NAMES), columns=("text", "label"), read=_wnut),
    "wnut-types": BuiltIn(labels=_NAMES, columns=("text", "label"), read=_wnut_types, fetched="wnut"),
}
