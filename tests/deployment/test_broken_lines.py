import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from flwr.supercore.retry import make_simple_http_retry_invoker

from fedrelease.client.deployment.broken_lines import outlive_cuts
from fedrelease.deployment.logs import read_log

TRIES = 3


@contextmanager
def cutting() -> Iterator[tuple[int, list[int]]]:
    """A port that ends every connection in the middle of TLS, and how many came."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                near.recv(1 << 10)  # the beginning of a handshake
                near.close()
                came.append(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1]), came
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(("patient", "tries"), [(False, 1), (True, TRIES)])
def test_a_line_that_is_cut_in_the_middle_of_tls_is_tried_again(patient: bool, tries: int) -> None:
    module = ModuleType("of_flower")
    module.make_simple_http_retry_invoker = make_simple_http_retry_invoker  # type: ignore[attr-defined]
    if patient:
        outlive_cuts(module)
    invoker = module.make_simple_http_retry_invoker()
    invoker.max_tries, invoker.wait_function = TRIES, lambda seconds: None
    with cutting() as (port, came), httpx.Client(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError, match="EOF occurred"):
            invoker.invoke(client.get, f"https://127.0.0.1:{port}")
        assert len(came) == tries


def test_a_process_ends_with_a_thread_of_it_that_ends_with_an_error(tmp_path: Path) -> None:
    program = f"""
import threading, time
from pathlib import Path
from fedrelease.client.deployment.broken_lines import end_with_any_thread
from fedrelease.deployment.logs import Log
end_with_any_thread(Log(Path({str(tmp_path / "site.log")!r}), process="supernode"))
threading.Thread(target=lambda: 1 / 0, name="heartbeats").start()
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=50, check=False)
    assert done.returncode == 1
    (line,) = read_log(tmp_path / "site.log")
    assert (line["event"], line["name"], line["why"]) == ("thread-died", "heartbeats", "ZeroDivisionError")
