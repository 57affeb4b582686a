"""The CMU Pronouncing Dictionary: a word's letters, and the sounds that it is made of.

Example::

    next(without_stress(folder)).values      # {'text': 'a', 'target': 'AH'}
    next(with_stress(folder)).values         # {'text': 'aaa', 'target': 'T R IH2 P AH0 L EY1'}

A word is in one of the two only: which one follows from its digest. A model that learned the first saw no word of the second.
Sounds are those of ARPAbet; a digit behind a vowel tells its stress: 1 the main one, 2 a lesser one, 0 none.
Source: Carnegie Mellon University, http://www.speech.cs.cmu.edu/cgi-bin/cmudict.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fedrelease.data.rows import RawRow
from fedrelease.data.written import decoded
from fedrelease.files import digest_bytes

__all__ = ["DICTIONARY", "with_stress", "without_stress"]

DICTIONARY = "cmudict.dict"
_WORD = re.compile("[a-z]+")
_STRESS = re.compile("[0-9]")


def without_stress(folder: Path) -> Iterator[RawRow]:
    """About half of the words, with their sounds alone.

    Raises:
        DataError: the file is not UTF-8.
    """
    return (_row(line, word, _STRESS.sub("", sounds)) for line, word, sounds in _words(folder) if _is_first(word))


def with_stress(folder: Path) -> Iterator[RawRow]:
    """The other words, with their sounds and the stress of each vowel.

    Raises:
        DataError: the file is not UTF-8.
    """
    return (_row(line, word, sounds) for line, word, sounds in _words(folder) if not _is_first(word))


def _words(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Words of letters only, each with its first pronunciation: another one stands behind ``word(2)``, and is left out."""
    for number, line in enumerate(decoded(folder / DICTIONARY).split("\n"), start=1):
        word, _, rest = line.partition(" ")
        if _WORD.fullmatch(word):
            yield number, word, " ".join(rest.partition("#")[0].split())


def _is_first(word: str) -> bool:
    return int(digest_bytes(word.encode())[:8], 16) % 2 == 0


def _row(line: int, word: str, sounds: str) -> RawRow:
    if not sounds:
        return RawRow(line=line, values={}, fault=f"the word {word!r:.60} has no sounds")
    return RawRow(line=line, values={"text": word, "target": sounds})
