"""The section of an experiment that says where rows come from, and how they become sites, with its bounds.

Example::

    Data(source="notes.csv", partition=Partition(by="iid", sites=4))
    Partition(by="size")                     # ExperimentError names the ways that there are
"""

import re
from dataclasses import dataclass, field

from fedrelease.bounds import one_of, positive, require
from fedrelease.scale import Scale, scale_of

__all__ = ["Data", "Partition"]

PARTITIONS = ("column", "dirichlet", "iid", "quantity", "shards", "virtual")
PIXELS = re.compile("[13]x[1-9][0-9]{0,3}x[1-9][0-9]{0,3}")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows become sites.

    ``by``: ``column`` (one site per value of ``column``), ``iid``, ``dirichlet`` (label skew with concentration
    ``alpha``), ``shards`` (``shards`` label-sorted pieces a site), ``quantity`` (sizes from a Dirichlet with
    ``alpha``), ``virtual`` (a site is a draw of ``rows`` training rows from all of them, with replacement and label skew
    ``alpha``, made when the site is asked: as many sites as you like).
    """

    by: str = "column"
    column: str = "site"
    sites: int = 4
    alpha: float = 0.5
    shards: int = 2
    rows: int = 20

    def __post_init__(self) -> None:
        """Check bounds."""
        one_of("data.partition.by", self.by, PARTITIONS)
        require(bool(self.column), "data.partition.column", self.column, "names a column")
        require(1 <= self.sites <= 10**9, "data.partition.sites", self.sites, "is between 1 and 1000000000")
        require(1 <= self.rows <= 1_000_000, "data.partition.rows", self.rows, "is between 1 and 1000000")
        positive("data.partition.alpha", self.alpha)
        require(1 <= self.shards <= 10_000, "data.partition.shards", self.shards, "is between 1 and 10000")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where rows come from and what is held out.

    Attributes:
        source: a built-in name, a ``.csv``/``.jsonl``/``.parquet``/``.conll`` file, a ``datasets`` folder, a folder of images, or
            a hub id.
        text: column of the input text; of words where words are labelled. A ``.conll`` file's columns are ``1``, ``2`` ...; the
            first one is also called ``text``, and the last one ``label``.
        text_pair: with ``pair-classification``, column of the second text.
        label: column of the label, or of the words' labels; with ``regression`` of the number.
        range: with ``regression``, the least and the greatest number that a row may have and the model says.
        tolerance: with ``regression``, a number that is said counts as right within so much; left out = a tenth of the range.
        pixels: of images in a folder: channels x height x width, to which each image is brought.
        holdout: share of each site's rows that the site never trains on.
        server_holdout: share of all rows that no site sees and the server evaluates on.
        limit_per_site: at most that many rows a site (before the hold-out is split off).
        holdout_limit: at most that many hold-out rows a site.
        words_per_text: with ``causal-lm`` and ``masked-lm``, of each text only so many words from its beginning; left out = all.
        prompt: with ``causal-lm``, column of what each text answers: only the text is learned, not what comes before it.
        chat: prompt and text go through the chat template of the base, as a user's turn and an assistant's.
        target: with ``seq2seq``, column of the text that is to come out.
    """

    source: str = "four-sites"
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    range: tuple[float, ...] | None = None
    tolerance: float | None = None
    pixels: str = "1x28x28"
    holdout: float = 0.2
    server_holdout: float = 0.0
    limit_per_site: int | None = None
    holdout_limit: int | None = None
    words_per_text: int | None = None
    prompt: str | None = None
    chat: bool = False
    target: str = "target"
    partition: Partition = field(default_factory=Partition)

    def __post_init__(self) -> None:
        """Check bounds."""
        require(bool(self.source), "data.source", self.source, "names a source")
        sizes = PIXELS.fullmatch(self.pixels) is not None
        require(sizes, "data.pixels", self.pixels, "is 1 or 3 channels x height x width, such as 3x64x64")
        require(0 < self.holdout < 1, "data.holdout", self.holdout, "is above 0 and below 1")
        require(0 <= self.server_holdout < 1, "data.server_holdout", self.server_holdout, "is at least 0 and below 1")
        for key in ("limit_per_site", "holdout_limit", "words_per_text"):
            limit: int | None = getattr(self, key)
            require(limit is None or limit >= 1, f"data.{key}", limit, "is at least 1, or left out")
        scale_of(self.range, self.tolerance)
        self._check_columns()
        rule, hint = "is left out with virtual sites", "set data.partition.rows instead"
        require(
            self.partition.by != "virtual" or not self.limit_per_site,
            "data.limit_per_site",
            self.limit_per_site,
            rule,
            hint,
        )

    @property
    def scale(self) -> Scale:
        """What numbers of the range are counted in."""
        return scale_of(self.range, self.tolerance)

    def _check_columns(self) -> None:
        prompted = self.prompt is not None
        require(self.prompt != "", "data.prompt", self.prompt, "names a column, or is left out")
        require(bool(self.target), "data.target", self.target, "names a column")
        rule, hint = (
            "is false without data.prompt: a turn of a chat answers another one",
            "name the column of the prompts",
        )
        require(prompted or not self.chat, "data.chat", self.chat, rule, hint)
        rule, words = "is left out with data.prompt", self.words_per_text
        require(not prompted or words is None, "data.words_per_text", words, rule, "set training.max_length")
