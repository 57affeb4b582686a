"""Run a command that ends with whoever started it, even if that one is killed.

Example::

    python -P -m fedrelease.deployment.tied 4711 flower-superlink --insecure      # 4711: the parent's process id

Linux sends the signal; elsewhere the command is merely run.
"""

import os
import signal
import sys

__all__ = ["die_with_parent", "main"]

PR_SET_PDEATHSIG = 1


def die_with_parent(by: signal.Signals) -> None:
    """From now on this process gets a signal when the thread that started it ends; a program run in its place keeps that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def main(arguments: list[str]) -> None:
    """Become the command, unless the parent is gone already."""
    parent, *command = arguments
    die_with_parent(signal.SIGTERM)
    if os.getppid() == int(parent):  # it may have ended before the line above
        try:
            os.execvp(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
