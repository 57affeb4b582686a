"""Whether a server answers its sites, said by an exit code: for the health check of a container or of a cluster.

Example::

    python -P -m fedrelease.server.deployment.healthy FOLDER && echo yes

It asks the gateway by TLS, as a site would, and the gateway asks the SuperLink.
"""

import ssl
import sys
from pathlib import Path

import httpx

from fedrelease.errors import FedreleaseError
from fedrelease.server.deployment.folder import Server, check_address, open_server

__all__ = ["main", "trouble"]

ANSWER_S = 5.0
ANYWHERE = ("0.0.0.0", "::", "[::]")


def trouble(server: Server) -> str | None:
    """What is wrong with a server, in one line; ``None`` when it is well."""
    host, port = check_address(server.settings.listen, "listen")
    address = "127.0.0.1" if host in ANYWHERE else host
    try:
        trust = ssl.create_default_context(cafile=str(server.authority_file))
        with httpx.Client(verify=trust, timeout=ANSWER_S, trust_env=False) as client:
            # localhost stands in every certificate of ours, the address of this machine's network need not
            answer = client.get(f"https://{address}:{port}/health", extensions={"sni_hostname": "localhost"})
    except (OSError, httpx.HTTPError) as error:
        return f"the gateway does not answer at {address}:{port}: {type(error).__name__}"
    return None if answer.status_code == httpx.codes.OK else f"the gateway answers {answer.status_code}"


def main(folder: Path) -> None:
    """End with 0 when the server is well, else with 1 and a line that says why."""
    try:
        sys.exit(trouble(open_server(folder)))
    except FedreleaseError as error:
        sys.exit(error.what)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
