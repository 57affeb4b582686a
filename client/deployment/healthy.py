"""Whether a site's SuperNode is up, said by an exit code: for the health check of a container or of a cluster.

Example::

    python -P -m fedrelease.client.deployment.healthy FOLDER && echo yes

It asks this machine only. A server that is away makes no site ill: to start the site again would not bring it back.
"""

import socket
import sys
from pathlib import Path

from fedrelease.client.deployment.folder import SiteFolder, open_site_folder
from fedrelease.errors import FedreleaseError

__all__ = ["main", "trouble"]

ANSWER_S = 5.0


def trouble(site: SiteFolder) -> str | None:
    """What is wrong with a site, in one line; ``None`` when it is well."""
    try:
        with socket.create_connection(("127.0.0.1", site.settings.port), timeout=ANSWER_S):
            return None
    except OSError as error:
        return f"the SuperNode does not answer at 127.0.0.1:{site.settings.port}: {type(error).__name__}"


def main(folder: Path) -> None:
    """End with 0 when the site is well, else with 1 and a line that says why."""
    try:
        sys.exit(trouble(open_site_folder(folder)))
    except FedreleaseError as error:
        sys.exit(error.what)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
