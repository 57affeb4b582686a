"""The Flower app that a server starts: one small file that names our two functions, and no code.

Example::

    bundle().digest                  # both sides make it from what is installed there, and compare

A site never runs what is in a bundle that came over the network: it runs what it has installed, if the digest is its own.
"""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

from fedrelease import __version__

__all__ = ["CLIENT_APP", "SETTINGS", "Bundle", "bundle", "flower_version"]

SETTINGS = "settings"
"""The only key of the run's configuration: a file on the server's machine."""
CLIENT_APP = "fedrelease.client.app:app"
"""What a site runs for it."""
_PYPROJECT = f"""
[project]
name = "fedrelease-federation"
version = "{__version__}"
description = "Names what is installed on either side, and carries no code"

[tool.flwr.app]
publisher = "fedrelease"

[tool.flwr.app.components]
serverapp = "fedrelease.server.app:app"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
{SETTINGS} = ""
"""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Flower's app bundle: its bytes, and their sha256 as Flower names it."""

    content: bytes
    digest: str


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    """The bundle of this version of fedrelease; equal bytes wherever the same versions of it and of Flower are installed."""
    from flwr.cli.build import build_fab_from_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own, about how it matches file names
        content, _ = build_fab_from_files({"pyproject.toml": _PYPROJECT.encode()})
    return Bundle(content=content, digest=hashlib.sha256(content).hexdigest())


def flower_version() -> str:
    """The version of Flower that is installed here."""
    return version("flwr")
