"""Ray for the time of one run: started on this machine or joined elsewhere, and gone at the end.

Example::

    with ray_cluster(Ray(address=None), most=2, home=Path("releases.sites")) as run:
        run.folder, run.resources                # where the actors' settings belong, and what Flower asks for each actor

Actors are Ray's processes that sites run in.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fedrelease.errors import EngineError
from fedrelease.simulations.engine import KERNEL_CACHES, ONE_THREAD
from fedrelease.simulations.leftovers import ray_files, sweep_handovers
from fedrelease.simulations.ray_log import keep_words, libraries_write_to, stderr_written_to

__all__ = ["FOLDER", "LOG", "Ray", "RayRun", "check_ray", "cpus_of_an_actor", "ray_cluster"]

FOLDER = "FEDRELEASE_RAY_RUN"
"""The environment variable with the run's folder, as actors see it."""
LOG = "engine.log"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that a later version will do so
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
AUTO = "auto"
CONNECT_S = 10.0
INSTALL = 'pip install -c constraints.txt "fedrelease[ray]"'
START = "start one with: ray start --head"


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Which Ray: ``None`` for one of the run's own on this machine, ``auto`` for one that runs here, or ``host:port``."""

    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class RayRun:
    """A run that is connected.

    Attributes:
        folder: of this run; every machine must see it. log: of everything that is nothing for the terminal.
        resources: what Flower asks Ray for, for each actor; one that dies is started again.
        actors: how many of them there will be.
    """

    folder: Path
    log: Path
    resources: Mapping[str, float]
    actors: int


def check_ray(wanted: str = "--engine ray") -> None:
    """Refuse to go on without Ray, which ``wanted`` needs.

    Raises:
        EngineError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            "Ray is not installed",
            value=wanted,
            rule="it needs the optional extra 'ray'",
            hint=INSTALL,
        )


@contextlib.contextmanager
def ray_cluster(which: Ray, *, most: int, home: Path) -> Iterator[RayRun]:
    """Ray while the block runs, and no process of it afterwards; a cluster that was there before stays.

    Args:
        most: actors; a cluster without room for them gives fewer.
        home: the sites' folder, which gets the log.

    Raises:
        EngineError: Ray is not installed, does not start, or is not at that address.
    """
    check_ray()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    folder = _fresh_folder(home)
    own, log = ray_files(folder), home.resolve() / LOG
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(shutil.rmtree, own, ignore_errors=True)
        undo.callback(keep_words, own, log)
        undo.enter_context(libraries_write_to(log))
        undo.callback(ray.shutdown)
        with _same_end_by_signal(), stderr_written_to(log):
            _connect(which, most, folder, own)
        cpus, actors = cpus_of_an_actor(_cpus_of_nodes(), most)
        yield RayRun(
            folder=folder,
            log=log,
            resources={"num_cpus": cpus, "max_restarts": -1, "max_task_retries": 1},
            actors=actors,
        )


@contextlib.contextmanager
def _same_end_by_signal() -> Iterator[None]:
    """Ray takes SIGTERM, and answers it with a stack on the terminal; its processes end with this one in any case."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _fresh_folder(home: Path) -> Path:
    """A new folder for the run; those of runs that were killed go, and what Ray had of theirs on this machine."""
    sweep_handovers(home)
    folder = home.resolve() / f"handover-{uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


def _connect(which: Ray, most: int, folder: Path, own: Path) -> None:
    """Start or join. Ray puts the current folder before all libraries in actors, so this happens in one that holds nothing."""
    import ray

    if which.address not in (None, AUTO):
        _check_listens(str(which.address))
    here = {"num_cpus": most, "include_dashboard": False, "_temp_dir": str(own)} if which.address is None else {}
    environment = {**QUIET, **ONE_THREAD, **KERNEL_CACHES, FOLDER: str(folder)}
    try:
        with contextlib.chdir(folder):
            ray.init(
                address=which.address or "local",
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": environment},
                **here,
            )
    except Exception as error:  # of any kind, from any depth of Ray
        raise _refused(which, error) from error


def _check_listens(address: str) -> None:
    """Whether something that may be Ray answers: Ray itself would try for minutes, and talk to the terminal meanwhile."""
    import grpc

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(CONNECT_S)
    except (OSError, ValueError, OverflowError, grpc.FutureTimeoutError) as error:
        why = getattr(error, "strerror", None) or str(error) or "what listens there is no Ray"
        raise EngineError(
            f"no Ray cluster answers there: {why}",
            value=address,
            rule="--ray-address is 'auto', or the host:port that 'ray start --head' printed",
            hint=START,
        ) from error


def _refused(which: Ray, error: Exception) -> EngineError:
    lines = str(error).strip().splitlines()
    what = "Ray does not start here" if which.address is None else "no Ray cluster can be joined"
    return EngineError(
        what,
        value=which.address,
        rule=f"Ray says: {lines[0] if lines else type(error).__name__}",
        hint="see the log beside the sites, or use --engine local" if which.address is None else START,
    )


def _cpus_of_nodes() -> list[float]:
    import ray

    return [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def cpus_of_an_actor(nodes: Sequence[float], most: int) -> tuple[int, int]:
    """CPUs to ask for each actor so that at most ``most`` fit the machines with that many CPUs, and how many do fit.

    Flower starts as many as fit, so that asking for more is the way to fewer. Uneven machines may give fewer than ``most``.
    """
    sizes = range(1, int(max(nodes, default=0)) + 1)
    fits = [(cpus, sum(int(node // cpus) for node in nodes)) for cpus in sizes]
    if not fits:
        raise EngineError(
            "no machine of the Ray cluster has a CPU for actors",
            value=str(list(nodes)),
            rule="a site takes one CPU",
            hint="add a machine: ray start --address",
        )
    return next((fit for fit in fits if fit[1] <= most), fits[-1])
