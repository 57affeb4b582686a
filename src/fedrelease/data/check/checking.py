"""One look at a source: what was understood, what to fix, and the lines of TOML to paste.

Words with a tag each and folders of images are known by their form; other tasks by an experiment that names them.

Example::

    checked = check("tweets.csv", Wishes(), cache=cache_folder())
    checked.ok, checked.findings, checked.toml
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedrelease.data.check.findings import (
    ERROR,
    Finding,
    findings_of,
    label_findings,
    leak_findings,
    of_names,
    role_findings,
)
from fedrelease.data.check.language import Languages, guess_languages
from fedrelease.data.check.leaks import Dealt, deal
from fedrelease.data.check.paste import lines_to_paste
from fedrelease.data.check.roles import Role, Roles, roles_of
from fedrelease.data.check.sheets import Column, SheetRows, columns_of, open_rows
from fedrelease.data.check.tagged import tag_findings, tags_of
from fedrelease.data.check.tasks import read_as
from fedrelease.data.check.texts import Item, Lengths, Texts, examine, lengths_of, texts_of
from fedrelease.errors import DataError
from fedrelease.experiment import Data, Experiment
from fedrelease.experiment_sections import CLASSIFICATION
from fedrelease.tasks import TASKS

__all__ = ["Checked", "Wishes", "check"]

MOST_TOKENISED = 20_000
"""Rows whose tokens are counted."""
UNCUT = 1_000_000
"""Tokens: no text is longer."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said: columns, a base to count tokens with, an experiment to deal the rows out with."""

    text: str | None = None
    label: str | None = None
    base: str | None = None
    experiment: Experiment | None = None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was understood of a source.

    Attributes:
        tags: words of each tag, where rows are words with a tag each and no experiment says otherwise.
        words, tokens: lengths; tokens where a base was named. dealt: where an experiment was given and refuses nothing.
        toml: lines for an experiment; empty where text, label or labels are not clear.
    """

    source: str
    rows: SheetRows
    columns: tuple[Column, ...]
    roles: Roles
    texts: Texts
    words: Lengths | None
    tokens: Lengths | None
    languages: Languages | None
    dealt: Dealt | None
    findings: tuple[Finding, ...]
    toml: str
    tags: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether an experiment would take the rows."""
        return all(finding.level != ERROR for finding in self.findings)

    @property
    def labels_are_names(self) -> bool:
        """Whether labels may be shown: a column that is full of text, or of other values, is private."""
        return of_names(self.columns, self.roles, self.texts)

    def beginning(self, line: int, letters: int) -> str | None:
        """The first letters of a line's text."""
        return next((item.text[:letters] for item in self.texts.items if item.line == line), None)


def check(source: str, wishes: Wishes, *, cache: Path) -> Checked:
    """Look at a source from its beginning to its end; nothing is fetched, written or sent.

    Raises:
        DataError: it cannot be read row by row, or a named column is not there.
        ModelError: the base is not here.
    """
    rows = open_rows(source, cache=cache, experiment=wishes.experiment)
    columns, experiment = columns_of(rows), _named(wishes, source)
    asked = TASKS[experiment.model.task].columns if experiment else ()
    roles = roles_of(
        rows,
        columns,
        text=experiment.data.text if experiment else wishes.text,
        label=experiment.data.label if experiment and "label" in asked else wishes.label,
    )
    if experiment is not None and "label" not in asked:
        roles = replace(roles, label=Role(column=None, guessed=False))
    tags = tags_of(rows, roles) if experiment is None else {}
    texts, findings = _tagged(rows, columns, roles, tags) if tags else _understood(rows, columns, roles, experiment)
    dealt = None
    if experiment is not None and all(finding.level != ERROR for finding in findings):
        dealt, more = _dealt(experiment, rows, cache)
        findings += more
    tokens = _tokens(wishes.base, texts.items, cache) if wishes.base else None
    return Checked(
        source=source,
        rows=rows,
        columns=columns,
        roles=roles,
        texts=texts,
        words=None if rows.images else lengths_of([len(item.text.split()) for item in texts.items]),
        tokens=tokens,
        languages=guess_languages([item.text for item in texts.items]) if texts.items and not rows.images else None,
        dealt=dealt,
        findings=tuple(sorted(findings, key=lambda finding: finding.level != ERROR)),
        toml=lines_to_paste(source, rows, columns, roles, texts, tags, tokens),
        tags=tags,
    )


def _named(wishes: Wishes, source: str) -> Experiment | None:
    """The experiment with this source, and with the columns that were named beside it."""
    experiment = wishes.experiment
    if experiment is None:
        return None
    text, label = wishes.text or experiment.data.text, wishes.label or experiment.data.label
    return replace(experiment, data=replace(experiment.data, source=source, text=text, label=label))


def _tagged(
    rows: SheetRows, columns: Sequence[Column], roles: Roles, tags: Mapping[str, int]
) -> tuple[Texts, list[Finding]]:
    """The rows as words with a tag each: their own tags are the labels."""
    data = Data(text=str(roles.text.column), label=str(roles.label.column))
    items, found = read_as(TASKS["token-classification"], rows, data, tuple(tags))
    texts, unlabelled = texts_of(items, {}), replace(roles, label=replace(roles.label, column=None))
    return texts, [*found, *tag_findings(tags, roles), *findings_of(rows, columns, unlabelled, texts)]


def _understood(
    rows: SheetRows, columns: Sequence[Column], roles: Roles, experiment: Experiment | None
) -> tuple[Texts, list[Finding]]:
    """The rows as those of a classification, or as the experiment's task reads them."""
    if experiment is not None and experiment.model.task not in CLASSIFICATION:
        items, found = read_as(TASKS[experiment.model.task], rows, experiment.data, experiment.model.labels)
        texts = texts_of(items, {})
        unlabelled = replace(roles, label=replace(roles.label, column=None))
        return texts, [*found, *findings_of(rows, columns, unlabelled, texts)]
    texts = examine(rows, roles)
    findings = [*findings_of(rows, columns, roles, texts), *role_findings(rows, roles)]
    if experiment is not None:
        findings += label_findings(texts, experiment.model.labels, shown=of_names(columns, roles, texts))
    return texts, findings


def _dealt(experiment: Experiment, rows: SheetRows, cache: Path) -> tuple[Dealt | None, list[Finding]]:
    """Where the rows go, and what is odd about that; what the experiment refuses is one more error."""
    try:
        dealt = deal(experiment, rows, cache=cache)
    except DataError as error:
        return None, [Finding(level=ERROR, what=error.what, fix=error.hint)]
    return dealt, list(leak_findings(dealt))


def _tokens(base: str, items: Sequence[Item], cache: Path) -> Lengths | None:
    from fedrelease.data.tokens import load_tokenizer
    from fedrelease.models.bases import open_base

    tokenizer = load_tokenizer(open_base(base, cache=cache).folder)
    first = [item.text for item in items[:MOST_TOKENISED]]
    told = {"return_attention_mask": False, "return_token_type_ids": False}
    encoded = tokenizer(first, truncation=True, max_length=UNCUT, **told) if first else {"input_ids": []}
    return lengths_of([len(ids) for ids in encoded["input_ids"]])
