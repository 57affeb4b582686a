"""The release service: bases and releases over gRPC with mutual TLS, for the sites of a federation and for who serves a model.

Example::

    python -m fedrelease.server.deployment.release_service FOLDER

A connection needs a certificate of the server's authority; each call needs that its key is in the register still. Health and
reflection may be asked by anyone with a certificate. Every refusal is a line of ``log/releases.log``; who does not get through
TLS stands in ``log/releases.out``.
"""

import asyncio
import signal
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fedrelease.deployment.release_calls import MOST_BYTES, SERVICE
from fedrelease.errors import IdentityError
from fedrelease.server.deployment.folder import Server, check_address, open_server
from fedrelease.server.deployment.release_access import Limits
from fedrelease.server.deployment.release_answers import ReleaseService

__all__ = ["main", "release_server"]

GRACE_S = 1.0
MOST_CALLS = 256
OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 10),
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)
"""Requests are small: a longer one is refused before it is read."""


async def release_server(server: Server, *, address: str, limits: Limits) -> tuple[grpc.aio.Server, int]:
    """The service, started, and the port that it listens on; port 0 takes a free one.

    Raises:
        IdentityError: the certificates cannot be read, or the address is taken.
    """
    made = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    made.add_generic_rpc_handlers((ReleaseService(server, limits=limits).handlers(),))
    well = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(well, made)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, made)
    try:
        port = made.add_secure_port(address, _credentials(server))
        await made.start()
    except (OSError, RuntimeError) as error:
        raise IdentityError("the release service cannot listen", value=address, hint="see who else does") from error
    for name in ("", SERVICE):
        await well.set(name, health_pb2.HealthCheckResponse.SERVING)
    return made, port


def _credentials(server: Server) -> grpc.ServerCredentials:
    """Our certificate; and whoever connects has one of our authority."""
    return grpc.ssl_server_credentials(
        [(server.key_file.read_bytes(), server.certificate_file.read_bytes())],
        root_certificates=server.authority_file.read_bytes(),
        require_client_auth=True,
    )


async def _serve(server: Server) -> None:
    host, port = check_address(server.settings.releases, "releases")
    made, _ = await release_server(server, address=f"{host}:{port}", limits=Limits())
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await made.stop(GRACE_S)


def main(folder: Path) -> None:
    """Serve until a signal comes."""
    asyncio.run(_serve(open_server(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
