"""The SuperLink's Control API, as the server's own processes use it: it asks nobody who they are, and listens on loopback only.

Example::

    with Control(server) as control:
        control.register(admitted(server))
        run = control.start_run(settings=folder / "run.json")
        control.status(run)                                # ('finished:completed', '')
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedrelease.deployment.bundle import SETTINGS, bundle
from fedrelease.errors import EngineError
from fedrelease.server.deployment.folder import Server
from fedrelease.server.deployment.register import Admitted

__all__ = ["Control", "Status", "key_bytes"]

READY_S = 90.0
MOST_STARTS = 6
"""That bring no answer."""
LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run is: ``pending``, ``running`` or ``finished``, and of a finished one how and why."""

    state: str
    how: str
    why: str


def key_bytes(line: str) -> bytes:
    """A public key as Flower tells it of a node, from the line that the register keeps."""
    return bytes(public_key_to_bytes(load_ssh_public_key(line.encode("ascii"))))  # type: ignore[arg-type]  # EC, as admitted


@final
class Control:
    """A connection to the SuperLink on this machine."""

    def __init__(self, server: Server) -> None:
        """Nothing is sent yet."""
        self._address = f"127.0.0.1:{server.settings.superlink_port}"
        self._authority = server.authority_file.read_bytes()
        self._client = ControlHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr")],
        )

    def wait_until_ready(self, *, meanwhile: Callable[[], None], starts: Callable[[], int]) -> None:
        """Wait until the SuperLink answers; ``meanwhile`` is called again and again, ``starts`` says how often it was started.

        Each start has its own time: who starts it again waits longer each time that it ends soon.

        Raises:
            EngineError: it does not.
        """
        first = begun = starts()
        until = time.monotonic() + READY_S
        while time.monotonic() < until and begun - first < MOST_STARTS:
            try:
                self._client.ListNodes(ListNodesRequest())
                return
            except httpx.HTTPError:
                meanwhile()
                time.sleep(LOOK_S)
            if starts() != begun:
                begun, until = starts(), time.monotonic() + READY_S
        raise EngineError("the SuperLink does not answer", value=self._address, hint="read log/superlink.out")

    def nodes(self) -> list[NodeInfo]:
        """All registered nodes, with their keys, and whether they are online."""
        return list(self._client.ListNodes(ListNodesRequest()).nodes_info)

    def register(self, sites: Mapping[str, Admitted]) -> None:
        """Let exactly these sites in: others that the SuperLink knows are unregistered."""
        wanted = {key_bytes(one.key): one.site for one in sites.values()}
        there = {bytes(node.public_key): node for node in self.nodes() if node.status != "unregistered"}
        for key, node in there.items():
            if key not in wanted:
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        for key, site in wanted.items():
            if key not in there:
                self._let_in(key, site)

    def _let_in(self, key: bytes, site: str) -> None:
        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.PRECONDITION_FAILED:  # the gateway registered it meanwhile
                raise

    def start_run(self, *, settings: Path) -> int:
        """Start the federation that a file of settings describes; its number."""
        made = bundle()
        answer = self._client.StartRun(
            StartRunRequest(
                fab=fab_to_proto(Fab(made.digest, made.content, {})),
                override_config=user_config_to_proto({SETTINGS: str(settings)}),
            )
        )
        return int(answer.run_id)

    def stop_left_over(self) -> list[int]:
        """Stop the runs that a server which was killed has left behind; their numbers.

        The SuperLink would take a minute to notice, and sites would go on with their questions meanwhile.
        """
        found = self._client.ListRuns(ListRunsRequest()).run_dict
        left = [number for number, run in found.items() if run.status.status != "finished"]
        for number in left:
            with suppress(httpx.HTTPStatusError):  # it has ended meanwhile
                self.stop_run(number)
        return left

    def status(self, run: int) -> Status:
        """Where a run is."""
        found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return Status(state=found.status, how=found.sub_status, why=found.details)

    def stop_run(self, run: int) -> None:
        """Stop a run; what it accepted and released stays."""
        self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> "Control":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()
