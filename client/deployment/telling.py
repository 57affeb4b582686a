"""What a server may hear of a failure at a site: the rule that was broken, and nothing that could hold a row or a place.

Example::

    reason = told(error, site)                       # goes back; the site's own log has the whole text

What an error says is told only where its kind promises that it holds nothing of the site's; anything else is named by its kind.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.errors import (
    BudgetExceeded,
    DataError,
    FedreleaseError,
    ModelError,
    PolicyRefused,
    PrivacyError,
    UpdateRefused,
)

__all__ = ["told"]

OF_THE_SERVER = (PolicyRefused, UpdateRefused)
"""Kinds whose whole text is about what the server sent."""
OF_RULES = (ModelError, PrivacyError)
"""Kinds that say what is wrong and its rule without a row; the value that they were given may be one."""
PLACE = re.compile(r"(?:^|[\s'\"(=:])(?:~|\.{1,2})?[/\\]\S|[A-Za-z]:[/\\]")
"""A path of any system."""


def told(error: Exception, site: SiteFolder) -> str:
    """The reason that goes back for an error."""
    if isinstance(error, OF_THE_SERVER):  # not looked through: what is cut from it would tell whether a guess was right
        return str(error)
    text = _words(error)
    return text if text and not _gives_away(text, site) else _kind(error)


def _words(error: Exception) -> str | None:
    if isinstance(error, BudgetExceeded):  # its rule names the ledger's file
        return error.what
    if isinstance(error, OF_RULES) and isinstance(error, FedreleaseError):
        return f"{error.what}; {error.rule}" if error.rule else error.what
    return None


def _gives_away(text: str, site: SiteFolder) -> bool:
    return PLACE.search(text) is not None or any(name in text for name in _names(site))


def _names(site: SiteFolder) -> Iterator[str]:
    """Names of files and folders that say something about the site."""
    source = Path(site.settings.source)
    for name in (str(site.folder), str(site.folder.absolute()), str(source), source.name, site.settings.base):
        if len(name) > 1:  # a dot is everywhere
            yield name


def _kind(error: Exception) -> str:
    if isinstance(error, DataError):
        return "the site's data cannot be used for this; its own log says why"
    return f"the site failed ({type(error).__name__}); its own log says why"
