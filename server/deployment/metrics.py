"""Metrics of a running server for Prometheus, on this machine only: what the logs tell, counted while the server runs.

Example::

    with metrics_served(server) as address:          # 'http://127.0.0.1:9446/metrics'; None where server.toml names none
        ...

It is a thread of the supervisor with the official client library, so that no further process has to be watched.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedrelease.deployment.logs import Tail
from fedrelease.errors import EngineError
from fedrelease.server.deployment.connected import connected
from fedrelease.server.deployment.folder import Server, check_address
from fedrelease.server.deployment.observed import LOGS, Observed
from fedrelease.server.deployment.register import admitted, open_invitations

__all__ = ["ServerCollector", "metrics_served"]


@final
class ServerCollector(Collector):
    """All metrics, made anew for each question."""

    def __init__(self, server: Server) -> None:
        """Counts begin with what the logs still have."""
        self._server, self._observed = server, Observed()
        self._tails = [Tail(server.log_folder / name) for name in LOGS]

    def collect(self) -> Iterator[Metric]:
        """What is known now."""
        for tail in self._tails:
            for line in tail.lines():
                self._observed.hear(line)
        yield from _of_sites(self._server)
        yield from _of_rounds(self._observed)
        yield from _of_operation(self._observed)

    def close(self) -> None:
        """Let go of the logs."""
        for tail in self._tails:
            tail.close()


@contextmanager
def metrics_served(server: Server) -> Iterator[str | None]:
    """Answer Prometheus while the block runs.

    Raises:
        EngineError: the address is in use.
    """
    if not server.settings.metrics:
        yield None
        return
    host, port = check_address(server.settings.metrics, "metrics")
    registry, collector = CollectorRegistry(), ServerCollector(server)
    registry.register(collector)
    try:
        endpoint, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise EngineError(
            f"metrics cannot be served: {error.strerror}",
            value=server.settings.metrics,
            hint='name another port in server.toml, or metrics = ""',
        ) from error
    try:
        yield f"http://{host}:{endpoint.server_port}/metrics"
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
        collector.close()


def _of_sites(server: Server) -> Iterator[Metric]:
    yield _gauge("sites_admitted", "Sites that may take part.", len(admitted(server)))
    yield _gauge("invitations_open", "Invitations that nobody has used yet.", len(open_invitations(server)))
    there = connected(server)
    shown = GaugeMetricFamily(
        "fedrelease_site_connected", "1 while the site's SuperNode is connected.", labels=["site"]
    )
    for site, presence in (there or {}).items():
        shown.add_metric([site], float(presence.online))
    yield _gauge("superlink_up", "1 while the SuperLink answers.", float(there is not None))
    yield shown


def _of_rounds(observed: Observed) -> Iterator[Metric]:
    totals, newest = observed.totals, observed.newest
    verdicts = CounterMetricFamily("fedrelease_releases", "Versions that were made.", labels=["verdict"])
    verdicts.add_metric(["released"], totals.released)
    verdicts.add_metric(["held"], totals.held)
    yield verdicts
    moved = CounterMetricFamily("fedrelease_payload_bytes", "Tensors of rounds, by direction.", labels=["direction"])
    moved.add_metric(["up"], totals.bytes_up)
    moved.add_metric(["down"], totals.bytes_down)
    yield moved
    answers = CounterMetricFamily("fedrelease_answers", "Answers of sites.", labels=["site", "outcome"])
    for (site, outcome), count in sorted(totals.answers.items()):
        answers.add_metric([site, outcome], count)
    yield answers
    yield CounterMetricFamily("fedrelease_round_seconds", "Seconds in rounds that ended.", value=totals.round_seconds)
    if observed.round is not None:
        yield _gauge("round", "Number of the round in progress, or of the last one.", observed.round.number)
    if observed.opened is not None:
        yield _gauge("rounds_planned", "Rounds of the plan.", observed.opened.rounds)
    if observed.epsilon is not None:
        yield _gauge("epsilon_worst_site", "The most that any site has spent.", observed.epsilon)
    if newest is not None:
        yield _gauge("last_round_seconds", "Seconds that the newest version took.", newest.seconds)
        age = time.time() - datetime.fromisoformat(newest.time).timestamp()
        yield _gauge("last_release_age_seconds", "Since the newest version was made.", max(0.0, age))


def _of_operation(observed: Observed) -> Iterator[Metric]:
    refused = CounterMetricFamily("fedrelease_refusals", "Requests that the gateway refused.", labels=["status"])
    for status, count in sorted(observed.totals.refusals.items()):
        refused.add_metric([str(status)], count)
    yield refused
    restarts = CounterMetricFamily("fedrelease_process_restarts", "Starts after the first.", labels=["process"])
    for name in sorted(observed.processes.keys() | observed.totals.restarts.keys()):
        restarts.add_metric([name], observed.totals.restarts[name])
    yield restarts


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fedrelease_{name}", what, value=value)
