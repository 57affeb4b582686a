"""Text files as users write them.

Example::

    decoded(Path("rows.csv"))        # its text, without a byte order mark
"""

from pathlib import Path

from fedrelease.errors import DataError

__all__ = ["decoded", "empty"]


def decoded(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it is not UTF-8; the error names the line.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"{path.name} line {line} is not UTF-8 text"
        raise DataError(what, value=str(path), rule="text files are UTF-8", hint="save it as UTF-8") from error


def empty(name: str) -> DataError:
    """What is wrong with a source that holds nothing."""
    return DataError(f"{name} holds no rows", value=name, rule="a source has at least one row", hint="name another")
