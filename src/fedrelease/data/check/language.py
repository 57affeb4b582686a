"""The language of the first rows, where py3langid is installed; else their scripts, by the names of Unicode.

Example::

    guess_languages(["a warm and funny film", ...]).shares   # {'en': 0.96, 'de': 0.04}
"""

import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Languages", "guess_languages"]

ROWS = 200
LEAST_WORDS = 4
"""Of a text whose language is guessed: shorter ones tell too little."""
LEAST_SHARE = 0.05
INSTALL = 'pip install -c constraints.txt "fedrelease[language]"'


@dataclass(frozen=True, kw_only=True)
class Languages:
    """A guess. ``of``: ``languages`` (ISO 639-1) or ``scripts``; ``shares`` of the ``rows`` looked at, those of 5 % and more."""

    of: str
    shares: Mapping[str, float]
    rows: int


def guess_languages(texts: Sequence[str]) -> Languages:
    """Of the first rows. Each row counts once; a script is that of most of its letters."""
    first = texts[:ROWS]
    if importlib.util.find_spec("py3langid") is None:
        return _counted("scripts", [_script(text) for text in first])
    long = [text for text in first if len(text.split()) >= LEAST_WORDS] or list(first)
    import py3langid

    return _counted("languages", [str(py3langid.classify(text)[0]) for text in long])


def _counted(of: str, found: Sequence[str | None]) -> Languages:
    counts = Counter(name for name in found if name is not None)
    shares = {name: count / len(found) for name, count in counts.most_common() if count >= LEAST_SHARE * len(found)}
    return Languages(of=of, shares=shares, rows=len(found))


def _script(text: str) -> str | None:
    """``latin``, ``cyrillic``, ``cjk`` ...: the first word of most letters' names; ``None`` without letters."""
    names = Counter(
        unicodedata.name(letter, "unknown").partition(" ")[0].partition("-")[0].lower()
        for letter in text
        if letter.isalpha()
    )
    return names.most_common(1)[0][0] if names else None
