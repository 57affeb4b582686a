"""Files that users have and nobody can train on, each made on the spot; the table in docs/data.md is made from them.

Print that table with ``python tests/data/broken_files.py``.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BROKEN", "Broken", "said", "table"]

GOOD = "text,label\n" + "".join(f"a film of {number} words,{('bad', 'good')[number % 2]}\n" for number in range(120))


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What is wrong, the file's name, what makes it, and flags that the command has beside it."""

    what: str
    name: str
    make: Callable[[Path], object]
    flags: tuple[str, ...] = ()


def written(data: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


def json_lines(*lines: str) -> Callable[[Path], object]:
    good = [json.dumps({"text": f"a film of {number} words", "label": number % 2}) for number in range(120)]
    return written("\n".join([*good, *lines]) + "\n")


def truncated_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a film"] * 50, "label": [0, 1] * 25}), path)
    path.write_bytes(path.read_bytes()[:-40])


def folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("nothing")


def torn_dataset(path: Path) -> None:
    path.mkdir()
    (path / "state.json").write_text("{}")
    (path / "dataset_info.json").write_text("{}")


def damaged_dataset(path: Path) -> None:
    import datasets

    rows = {"text": [f"a film of {number} words" for number in range(60)], "label": [0, 1] * 30}
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes().replace(b"of 41 words", b"of \xff\xff words"))


BROKEN: Sequence[Broken] = (
    Broken(what="it does not exist", name="tweets.csv", make=lambda path: None),
    Broken(what="another kind of file", name="rows.xlsx", make=written(b"PK\x03\x04")),
    Broken(
        what="Latin-1 and not UTF-8", name="latin.csv", make=written(GOOD.encode() + "un café,good\n".encode("latin-1"))
    ),
    Broken(what="UTF-16 without a mark", name="utf16.csv", make=written(GOOD.encode("utf-16-le"))),
    Broken(what="a NUL byte in a text", name="nul.csv", make=written(GOOD + "a f\0lm,good\n")),
    Broken(what="an unclosed quote", name="quote.csv", make=written(GOOD + '"a film,good\nanother,bad\n')),
    Broken(what="a ragged row", name="ragged.csv", make=written(GOOD + "a film, and a book,good\n")),
    Broken(what="a column twice", name="twice.csv", make=written("text,label,label\na film,good,bad\n")),
    Broken(what="nothing in it", name="empty.csv", make=written("")),
    Broken(what="a header only", name="header.csv", make=written("text,label\n")),
    Broken(what="rows without a text", name="gaps.csv", make=written(GOOD + "  ,good\n")),
    Broken(what="rows without a label", name="unlabelled.csv", make=written(GOOD + "a film,\n")),
    Broken(what="one label only", name="one-label.csv", make=written(GOOD.replace("bad", "good"))),
    Broken(what="no such label column", name="stars.csv", make=written(GOOD), flags=("--label", "stars")),
    Broken(what="numbers only", name="numbers.csv", make=written("a,b\n" + "1.5,2.5\n" * 120)),
    Broken(what="a line that is no JSON", name="torn.jsonl", make=json_lines('{"text": "a film", ')),
    Broken(what="a JSON line that is no object", name="list.jsonl", make=json_lines('["a film", 1]')),
    Broken(what="half a surrogate pair", name="emoji.jsonl", make=json_lines('{"text": "a film \\ud83d", "label": 1}')),
    Broken(what="a text that is a number", name="typed.jsonl", make=json_lines('{"text": 5, "label": 1}')),
    Broken(
        what="a number of 5,000 digits",
        name="digits.jsonl",
        make=json_lines('{"text": "x", "label": ' + "7" * 5000 + "}"),
    ),
    Broken(what="a truncated Parquet file", name="torn.parquet", make=truncated_parquet),
    Broken(what="a CSV called Parquet", name="csv.parquet", make=written(GOOD)),
    Broken(what="a folder that is no data set", name="folder", make=folder),
    Broken(what="a data set without its rows", name="torn-dataset", make=torn_dataset),
    Broken(what="a data set with a damaged row", name="damaged-dataset", make=damaged_dataset),
)


def said(document: Mapping[str, object]) -> tuple[str, str]:
    """What the program says of a file, and the way out: its error, or the first thing to fix with the lines."""
    error = document.get("error")
    if isinstance(error, dict):
        return _ours(str(error["what"])), str(error["hint"])
    problems = document["problems"]
    assert isinstance(problems, list)
    first = problems[0]
    lines = f" (line {first['lines'][0]})" if first["lines"] else ""
    return f"{_ours(str(first['what']))}{lines}", str(first["fix"])


def _ours(what: str) -> str:
    """Without what a library says of it: its next version may say it in another way."""
    return re.sub("(not JSON|not CSV|Parquet file|as datasets|row [0-9]+ cannot be read): .*", r"\1: ...", what)


def table(found: Mapping[str, tuple[str, str]]) -> str:
    """The table of the documentation."""
    rows = [f"| {broken.what} | {' | '.join(_cell(part) for part in found[broken.name])} |" for broken in BROKEN]
    return "\n".join(["| what is wrong | what is said | the way out |", "| --- | --- | --- |", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace(str(Path.cwd()), "FOLDER")


def main() -> None:
    """Make all files in a folder of their own, look at each, and print the table."""
    import contextlib
    import io

    from fedrelease.cli import run

    found = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for broken in BROKEN:
            broken.make(Path(broken.name))
            with contextlib.redirect_stdout(io.StringIO()) as out:
                run(["data", "check", broken.name, *broken.flags, "--json"])
            found[broken.name] = said(json.loads(out.getvalue()))
        sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
