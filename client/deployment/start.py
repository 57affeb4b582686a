"""Both processes of a site, until a signal comes.

Example::

    run_site(open_site_folder(Path("amazon")), until=stopped.is_set)
"""

import time
from collections.abc import Callable

from fedrelease.client.deployment.folder import SiteFolder
from fedrelease.client.deployment.renewal import Renewal
from fedrelease.deployment.logs import Log
from fedrelease.deployment.notify import Notify
from fedrelease.deployment.processes import Processes, Program, module

__all__ = ["run_site", "site_programs"]

TEND_S = 0.5
AGAIN_S = 2.0
"""A SuperNode may come back so soon: :mod:`fedrelease.client.deployment.presence`."""


def site_programs(site: SiteFolder) -> tuple[Program, Program]:
    """The SuperNode, which talks to the server, and the app, which has the data."""
    here = {"FLWR_HOME": str(site.folder / "flower")}
    alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

    def program(name: str, environment: dict[str, str]) -> Program:
        return Program(
            name=name,
            command=module(f"fedrelease.client.deployment.{name}", str(site.folder.absolute())),
            output=site.log_folder / f"{name}.out",
            environment=environment,
            pause_s=AGAIN_S,
        )

    return program("supernode", here), program("executor", {**here, **alone})


def run_site(site: SiteFolder, *, until: Callable[[], bool]) -> None:
    """Run the site's processes, and start again whichever ends, until ``until()`` is true.

    A SuperNode waits for the answer of an executor that has ended, and if half of that was there, for ever. So it signs off and
    comes in again: the server hears at once, and not after a minute, that this answer will not come.
    """
    log = Log(site.log_folder / "site.log", process="site", site=site.settings.site)
    notify, renewal = Notify(), Renewal(site, log)
    with Processes(log=log) as processes:
        for program in site_programs(site):
            processes.start(program)
        notify.ready(f"{site.settings.site} answers {site.settings.server}")
        answering = True
        while not until():
            notify.alive()
            before, answering = answering, processes.alive("executor")
            if before and not answering and processes.alive("supernode"):
                processes.again("supernode")
            processes.tend()
            renewal.look()
            time.sleep(TEND_S)
        notify.stopping()
    log("stopped")
