"""What Flower, Ray and Python's warnings would print goes to a file while a run lasts.

Example::

    with libraries_write_to(Path("releases.sites/engine.log")):
        ...
"""

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["keep_words", "libraries_write_to", "stderr_written_to"]

LOGGERS = ("flwr", "ray", "py.warnings")
WORDS = "session_2*/logs/worker-*.err"
MOST_CHARACTERS = 20_000
STDERR = 2


@contextlib.contextmanager
def libraries_write_to(log: Path) -> Iterator[None]:
    """The block's log lines and warnings go to ``log``; the libraries must have been imported, which sets up their own way."""
    with log.open("a", buffering=1, encoding="utf-8") as file, contextlib.ExitStack() as undo:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        undo.enter_context(warnings.catch_warnings())  # a library changes which ones are shown
        undo.callback(logging.captureWarnings, False)
        undo.enter_context(contextlib.redirect_stdout(_ByThread(sys.stdout, file)))
        for name in LOGGERS:
            undo.enter_context(_only(handler, logging.getLogger(name)))
        logging.captureWarnings(True)
        yield


@contextlib.contextmanager
def _only(handler: logging.Handler, logger: logging.Logger) -> Iterator[None]:
    before, logger.handlers = logger.handlers, [handler]
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagate


class _ByThread(io.TextIOBase):
    """A stdout for the thread that made it; what others print, as Ray's listener does, goes to the log."""

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self._screen, self._log, self._owner = screen, log, threading.current_thread()

    def _target(self) -> TextIO:
        return self._screen if threading.current_thread() is self._owner else self._log

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()


@contextlib.contextmanager
def stderr_written_to(log: Path) -> Iterator[None]:
    """What is written to the process's stderr goes to ``log``, also from beneath Python, as from Ray's compiled part.

    That part writes there while it starts and ends only. Our own progress stands still meanwhile.
    """
    sys.stderr.flush()
    terminal = os.dup(STDERR)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), STDERR)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, STDERR)
        os.close(terminal)


def keep_words(files: Path, log: Path) -> None:
    """Add to ``log`` the last words of a local Ray's workers, for those that died of something Python could not catch."""
    with log.open("a", encoding="utf-8") as kept:
        for path in sorted(path for path in files.glob(WORDS) if not path.is_symlink()):
            lines = path.read_text(encoding="utf-8", errors="replace")[-MOST_CHARACTERS:].splitlines()
            said = [line for line in lines if line and not line.startswith(":")]  # ":" is what Ray tells itself
            kept.writelines(f"{line}\n" for line in (path.name, *said) if said)
