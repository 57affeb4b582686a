"""A site's connection to the server: Flower's own SuperNode, asking for work more often than every three seconds.

Example::

    python -P -m fedrelease.client.deployment.supernode FOLDER

It only carries messages. What is done with them is :mod:`fedrelease.client.deployment.executor`'s business, in a process of its
own that Flower's ``--isolation process`` leaves to us: nothing that came over the network is ever run.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fedrelease.client.deployment.folder import SiteFolder, open_site_folder

__all__ = ["arguments", "main"]


def arguments(site: SiteFolder) -> list[str]:
    """The command line of ``flower-supernode`` for this site."""
    return [
        "flower-supernode",
        *("--superlink", site.settings.server),
        *("--root-certificates", str(site.authority_file)),
        *("--auth-supernode-private-key", str(site.key_file)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(site.secret_file)),
        *("--host", "127.0.0.1"),
        *("--port", str(site.settings.port)),
    ]


def _ask_more_often(every_s: float) -> None:
    """Flower's loop sleeps for three seconds when there was no message, and has no setting for it."""
    from flwr.supernode import start_client_internal as loop

    quicker = SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if not name.startswith("_")})
    quicker.sleep = lambda seconds: time.sleep(min(seconds, every_s))
    setattr(loop, "time", quicker)  # noqa: B010  # the module's own name for the library, which it does not export


def main(folder: Path) -> None:
    """Be the SuperNode until a signal comes."""
    site = open_site_folder(folder)
    sys.argv = arguments(site)
    from flwr.supernode.cli.flower_supernode import flower_supernode

    _ask_more_often(site.settings.poll_s)
    flower_supernode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
