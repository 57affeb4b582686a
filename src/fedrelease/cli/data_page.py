"""How ``fedrelease data check`` says what it understood. No text of a row is in it, but for beginnings where they are asked for.

Example::

    print_check(checked, to_stdout(), show=False)
"""

from dataclasses import asdict

from rich.console import Console

from fedrelease.cli.output import Column, fitting, put, section
from fedrelease.data.check.checking import Checked
from fedrelease.data.check.findings import SHOWN, Finding
from fedrelease.data.check.language import INSTALL, Languages
from fedrelease.data.check.roles import Role
from fedrelease.data.check.tagged import may_be_shown
from fedrelease.data.check.texts import Lengths
from fedrelease.files import Json
from fedrelease.wording import plain

__all__ = ["check_document", "print_check"]

LABELS_SHOWN = 20
LINES_SHOWN = 8
LINES_TOLD = 1000
"""In JSON."""
EXAMPLES = 3


def check_document(checked: Checked, *, show: bool) -> dict[str, Json]:
    """What ``--json`` prints."""
    texts, dealt = checked.texts, checked.dealt
    columns: list[Json] = [
        {
            "name": column.name,
            "kind": column.kind,
            "role": _role(checked, column.name) or None,
            "distinct": column.distinct,
            "missing": len(column.missing),
            "empty": len(column.empty),
        }
        for column in checked.columns
    ]
    return {
        "source": checked.source,
        "ok": checked.ok,
        "rows": len(checked.rows.rows),
        "unreadable": len(checked.rows.faults),
        "columns": columns,
        "text": {"column": checked.roles.text.column, "guessed": checked.roles.text.guessed},
        "label": {"column": checked.roles.label.column, "guessed": checked.roles.label.guessed},
        "labels": dict(texts.labels) if checked.labels_are_names else None,
        "tags": dict(checked.tags) if may_be_shown(checked.tags) else None,
        "pixels": checked.rows.pixels or None,
        "words": _lengths_document(checked.words),
        "tokens": _lengths_document(checked.tokens),
        "copies": len(texts.copies),
        "near_copies": len(texts.near),
        "contradictions": len(texts.contradictions),
        "language": asdict(checked.languages) if checked.languages else None,
        "sites": {name: asdict(site) for name, site in dealt.sites.items()} if dealt else None,
        "leaks": {"two_sites": len(dealt.two_sites), "training_and_holdout": len(dealt.in_both)} if dealt else None,
        "problems": [_problem(checked, finding, show=show) for finding in checked.findings],
        "toml": checked.toml,
    }


def _lengths_document(lengths: Lengths | None) -> Json:
    if lengths is None:
        return None
    return {"median": lengths.median, "95": lengths.share_95, "longest": lengths.longest}


def _problem(checked: Checked, finding: Finding, *, show: bool) -> dict[str, Json]:
    told: dict[str, Json] = {
        "level": finding.level,
        "what": finding.what,
        "rows": len(finding.lines),
        "lines": list(finding.lines[:LINES_TOLD]),
        "fix": finding.fix,
    }
    return {**told, "begin": list(_beginnings(checked, finding))} if show else told


def _beginnings(checked: Checked, finding: Finding) -> list[str]:
    found = (checked.beginning(line, SHOWN) for line in finding.lines[:EXAMPLES])
    return [text for text in found if text is not None]


def print_check(checked: Checked, console: Console, *, show: bool) -> None:
    """Print all of it, section by section."""
    rows = checked.rows
    bad = f", {len(rows.faults)} more cannot be read" if rows.faults else ""
    console.print(plain(f"{checked.source}: {len(rows.rows)} rows, {len(rows.columns)} columns{bad}"))
    _print_columns(checked, console)
    _print_labels(checked, console)
    _print_tags(checked, console)
    _print_texts(checked, console)
    _print_sites(checked, console)
    _print_findings(checked, console, show=show)
    if checked.toml:
        title = (
            "to paste into an experiment" if checked.ok else "to paste into an experiment, once the errors are fixed"
        )
        section(console, title, [])
        console.print(checked.toml.rstrip("\n"), soft_wrap=True)


def _role(checked: Checked, name: str) -> str:
    told = {
        checked.roles.site: "sites?",
        checked.roles.label.column: _said("label", checked.roles.label),
        checked.roles.text.column: _said("text", checked.roles.text),
    }
    return told.get(name, "")


def _said(what: str, role: Role) -> str:
    return f"{what} (guessed)" if role.guessed else what


def _print_columns(checked: Checked, console: Console) -> None:
    columns = checked.columns
    section(console, "columns", [])
    made = [
        Column(header="  column", cells=[f"  {column.name[:SHOWN]}" for column in columns]),
        Column(header="role", cells=[_role(checked, column.name) or "-" for column in columns]),
        Column(header="kind", cells=[column.kind for column in columns], rank=1),
        Column(header="different>", cells=[str(column.distinct) for column in columns], rank=2),
        Column(header="missing>", cells=[str(len(column.missing)) for column in columns], rank=3),
        Column(header="empty>", cells=[str(len(column.empty)) for column in columns], rank=4),
    ]
    put(console, fitting(console, made))


def _print_labels(checked: Checked, console: Console) -> None:
    labels = list(checked.texts.labels.items())
    if not checked.labels_are_names:
        if labels:
            section(
                console, "labels", [("", f"{len(labels)} different values that look like no labels: none is shown")]
            )
    elif labels:
        total = sum(checked.texts.labels.values())
        pairs = [
            (plain(name)[:SHOWN], f"{count} of {total} rows, {count / total:.0%}")
            for name, count in labels[:LABELS_SHOWN]
        ]
        more = [("...", f"and {len(labels) - LABELS_SHOWN} more: --json")] if len(labels) > LABELS_SHOWN else []
        section(console, "labels", [*pairs, *more])


def _print_tags(checked: Checked, console: Console) -> None:
    if not may_be_shown(checked.tags):
        return
    tags, total = list(checked.tags.items()), sum(checked.tags.values())
    pairs = [
        (plain(name)[:SHOWN], f"{count} of {total} words, {count / total:.0%}") for name, count in tags[:LABELS_SHOWN]
    ]
    more = [("...", f"and {len(tags) - LABELS_SHOWN} more: --json")] if len(tags) > LABELS_SHOWN else []
    section(console, "tags", [*pairs, *more])


def _print_texts(checked: Checked, console: Console) -> None:
    texts, languages = checked.texts, checked.languages
    if texts.items:
        pairs = [
            ("words", _lengths(checked.words)),
            ("tokens", _lengths(checked.tokens)),
            ("copies", f"{len(texts.copies)} exact, {len(texts.near)} more but for case and spaces"),
            ("contradictions", str(len(texts.contradictions))),
            ("language" if languages and languages.of == "languages" else "script", _languages(languages)),
        ]
        section(console, "texts", pairs)


def _lengths(lengths: Lengths | None) -> str:
    if lengths is None:
        return ""
    return f"median {lengths.median:g}, 95 % have at most {lengths.share_95}, the longest {lengths.longest}"


def _languages(languages: Languages | None) -> str:
    if languages is None:
        return ""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in languages.shares.items()) or "none is clear"
    guess = f"a guess from the first {languages.rows} rows that are long enough"
    scripts = f"of the first {languages.rows} rows; for languages: {INSTALL}"
    return f"{shares} ({guess if languages.of == 'languages' else scripts})"


def _print_sites(checked: Checked, console: Console) -> None:
    dealt = checked.dealt
    if dealt is None:
        return
    own = "one site's own rows: the file has no column of sites" if dealt.own else ""
    sites = list(dealt.sites.items())
    pairs = [(name, f"{site.train} to train on, {site.holdout} held out") for name, site in sites[:LABELS_SHOWN]]
    more = [("...", f"and {len(sites) - LABELS_SHOWN} more: --json")] if len(sites) > LABELS_SHOWN else []
    server = [("server", f"{dealt.server} held out")] if dealt.server else []
    leaks = [("leaks", f"rows at two sites: {len(dealt.two_sites)}; in training and a hold-out: {len(dealt.in_both)}")]
    section(console, "sites, as the experiment deals the rows out", [("taken as", own), *pairs, *more, *server, *leaks])


def _print_findings(checked: Checked, console: Console, *, show: bool) -> None:
    section(console, "what to fix" if checked.findings else "nothing to fix", [])
    for finding in checked.findings:
        where = _where(checked.rows.place, finding.lines)
        console.print(f"  {finding.level}: {finding.what}" + (f" ({where})" if where else ""), soft_wrap=True)
        if finding.fix:
            console.print(f"    {finding.fix}", soft_wrap=True)
        for beginning in _beginnings(checked, finding) if show else ():
            console.print(f"    | {plain(beginning)}", soft_wrap=True)


def _where(place: str, lines: tuple[int, ...]) -> str:
    if not lines:
        return ""
    shown = ", ".join(str(line) for line in lines[:LINES_SHOWN])
    more = f" and {len(lines) - LINES_SHOWN} more" if len(lines) > LINES_SHOWN else ""
    return f"{place}{'s' if len(lines) > 1 else ''} {shown}{more}"
