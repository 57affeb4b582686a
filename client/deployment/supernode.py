"""A site's connection to the server: Flower's own SuperNode, asking for work more often than every three seconds.

Example::

    python -P -m fedrelease.client.deployment.supernode FOLDER

It only carries messages. What is done with them is :mod:`fedrelease.client.deployment.executor`'s business, in a process of its
own that Flower's ``--isolation process`` leaves to us: nothing that came over the network is ever run.
"""

import os
import sys
from pathlib import Path

from fedrelease.client.deployment.folder import SiteFolder, open_site_folder
from fedrelease.deployment.logs import Log
from fedrelease.deployment.pace import set_pace

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


def main(folder: Path) -> None:
    """Be the SuperNode until a signal comes; whenever Flower's ends otherwise, this process ends too, with all its threads."""
    site = open_site_folder(folder)
    sys.argv = arguments(site)
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode

    from fedrelease.client.deployment.broken_lines import end_with_any_thread, outlive_cuts
    from fedrelease.client.deployment.owed import answer_all
    from fedrelease.client.deployment.presence import come_back_soon

    log = Log(site.log_folder / "site.log", process="supernode", site=site.settings.site)
    come_back_soon(site, log)
    outlive_cuts(fleet_http_connection)
    end_with_any_thread(log)
    set_pace(start_client_internal, idle_s=site.settings.poll_s)
    answer_all(start_client_internal)
    flower_supernode()
    sys.stdout.flush()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
