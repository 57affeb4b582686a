"""One finding of a preflight check: what was looked at, whether it is in order, what was found, the rule, the way out.

Example::

    failed("key file", "mode 0644", rule="only its owner may read it: 0600", hint="chmod 600 site.key")
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from fedrelease.errors import FedreleaseError

__all__ = ["Check", "Checks", "failed", "guarded", "passed", "warned"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """``status`` is ``pass``, ``warn`` (it works, but) or ``fail`` (the site cannot take part like this)."""

    name: str
    status: str
    found: str
    rule: str = ""
    hint: str = ""


Checks: TypeAlias = Iterator[Check]


def passed(name: str, found: str) -> Check:
    """In order."""
    return Check(name=name, status="pass", found=found)


def warned(name: str, found: str, *, rule: str, hint: str) -> Check:
    """It works, but not for long, or not well."""
    return Check(name=name, status="warn", found=found, rule=rule, hint=hint)


def failed(name: str, found: str, *, rule: str = "", hint: str = "") -> Check:
    """The site cannot take part like this."""
    return Check(name=name, status="fail", found=found, rule=rule, hint=hint)


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> Checks:
    """What ``checks`` finds; an error that ends it is itself a finding, and the checks after it still help."""
    try:
        yield from checks()
    except FedreleaseError as error:
        given = f": {error.value}" if error.value is not None else ""
        yield failed(name, f"{error.what}{given}", rule=error.rule, hint=error.hint)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        yield failed(name, f"{error.strerror or type(error).__name__}{where}", hint="look at that file or folder")
    except Exception as error:  # whatever is broken on this machine
        yield failed(name, f"{type(error).__name__}: {error}", hint="report this: FEDRELEASE_DEBUG=1 shows where")
