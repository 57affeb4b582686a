"""OpenTelemetry traces: real spans of real rounds, to a file and to a collector; and none where nobody wishes for them."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fake_sites import FakeSites, make_experiment, make_setting, run
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fedrelease.errors import ExperimentError, RoundFailed
from fedrelease.server.deployment import traces as traces_module
from fedrelease.server.deployment.folder import Settings, make_server, open_server
from fedrelease.server.deployment.traces import lacking, traces
from fedrelease.server.store import Store
from fedrelease.server.tracing import span, spanned

Span = dict[str, object]


def federation(folder: Path, *, quorum: float = 0.5) -> None:
    """Two rounds of three sites."""
    run(make_setting(folder, FakeSites(("a", "b", "c")), experiment=make_experiment(quorum=quorum)))


def written(folder: Path) -> list[Span]:
    return [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]


def name_of(one: Span) -> str:
    return str(one["name"]).removeprefix("fedrelease.")


def parents(spans: list[Span]) -> set[tuple[str, str | None]]:
    names = {one["context"]["span_id"]: name_of(one) for one in spans}  # type: ignore[index]
    return {(name_of(one), names.get(one["parent_id"])) for one in spans}


def test_each_round_is_a_span_with_its_parts_inside_and_an_answer_for_each_site(tmp_path: Path) -> None:
    with traces("file", tmp_path / "log", run="77"):
        federation(tmp_path / "store")
    spans = written(tmp_path / "log")
    assert parents(spans) == {
        ("round", None),
        ("gather", "round"),
        ("gather", None),  # of 0.0.0, which is no round
        ("answer", "gather"),
        ("aggregate", "round"),
        ("publish", "round"),
        ("publish", None),
        ("gate", "publish"),
    }
    answers = [one["attributes"] for one in spans if name_of(one) == "answer"]
    trained = [told["fedrelease.site"] for told in answers if told["fedrelease.step"] == "train"]  # type: ignore[index]
    assert sorted(trained) == ["a", "a", "b", "b", "c", "c"]
    assert {one["resource"]["attributes"]["fedrelease.run"] for one in spans} == {"77"}  # type: ignore[index]


def test_an_answer_begins_with_the_question(tmp_path: Path) -> None:
    with traces("file", tmp_path, run="1"), span("gather"):
        spanned("answer", site="a")
    answer, gather = written(tmp_path)
    assert answer["start_time"] == gather["start_time"]
    assert str(gather["start_time"]) <= str(answer["end_time"]) <= str(gather["end_time"])


def test_a_round_that_fails_is_told_by_the_kind_of_its_error_and_without_its_words(tmp_path: Path) -> None:
    with pytest.raises(RoundFailed), traces("file", tmp_path, run="1"), span("round"):
        raise RoundFailed("a secret", value="a row")
    (failed,) = written(tmp_path)
    assert failed["status"] == {"status_code": "ERROR", "description": "RoundFailed"}
    assert "a secret" not in json.dumps(failed) and "a row" not in json.dumps(failed)


def test_tracing_changes_no_bit_of_a_release(tmp_path: Path) -> None:
    def head(folder: Path) -> str:
        return run(make_setting(folder, FakeSites(("a", "b")), experiment=make_experiment()))

    with traces("file", tmp_path / "log", run="1"):
        traced = head(tmp_path / "traced")
    assert traced == head(tmp_path / "plain")
    assert len(written(tmp_path / "log")) > 10


def test_without_a_wish_or_without_the_extra_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traces("", tmp_path, run="1"), span("round"):
        spanned("answer")
    assert lacking("") is None and lacking("file") is None
    monkeypatch.setattr(traces_module, "find_spec", lambda name: None)
    with traces("file", tmp_path, run="1"), span("round"):
        spanned("answer")
    assert list(tmp_path.iterdir()) == []
    assert 'pip install -c constraints.txt "fedrelease[otel]"' in str(lacking("file"))


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Takes OTLP over HTTP; its address, and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *said: object) -> None:
            del said

    with HTTPServer(("127.0.0.1", 0), Take) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_port}/v1/traces", came
        finally:
            served.shutdown()
            thread.join()


def test_a_collector_gets_every_span_when_the_run_ends(tmp_path: Path) -> None:
    with collector() as (address, came):
        with traces(address, tmp_path, run="77"), span("round", version="0.1.1"):
            spanned("answer", site="a")
        spans = [one for request in came for r in request.resource_spans for s in r.scope_spans for one in s.spans]
    assert sorted(one.name for one in spans) == ["fedrelease.answer", "fedrelease.round"]
    assert list(tmp_path.iterdir()) == []


def test_a_collector_that_is_away_costs_spans_and_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "ANSWER_S", 0.2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with traces(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces", tmp_path, run="1"):
            federation(tmp_path / "store")
    assert Store.open(tmp_path / "store").releases()[-1].version == "0.1.2"


@pytest.mark.parametrize("place", ["http://10.0.0.9:4318/v1/traces", "ftp://127.0.0.1/", "yes", "/tmp/x", "http://"])
def test_spans_leave_this_machine_over_tls_only(tmp_path: Path, place: str) -> None:
    path = make_server(tmp_path / "server", settings=Settings(), now=datetime.now(UTC)).folder / "server.toml"
    path.write_text(path.read_text().replace('traces = ""', f'traces = "{place}"'))
    with pytest.raises(ExperimentError, match="traces have no such place"):
        open_server(path.parent)


@pytest.mark.parametrize(
    "place", ["", "file", "http://localhost:4318/v1/traces", "https://collector.example.org/v1/traces"]
)
def test_a_file_this_machine_and_tls_are_places_for_spans(tmp_path: Path, place: str) -> None:
    path = make_server(tmp_path / "server", settings=Settings(), now=datetime.now(UTC)).folder / "server.toml"
    path.write_text(path.read_text().replace('traces = ""', f'traces = "{place}"'))
    assert open_server(path.parent).settings.traces == place
