"""OpenTelemetry traces of a deployed server's rounds, if they are wished for and the extra ``otel`` is installed.

Example::

    with traces("file", server.log_folder, run="77"):                      # a span a line, in log/traces.jsonl
        ...
    with traces("http://127.0.0.1:4318/v1/traces", folder, run="77"):      # to a collector, by OTLP over HTTP

A collector that is away costs a few spans, and no round.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, final
from urllib.parse import urlsplit

from fedrelease import __version__
from fedrelease.deployment.logs import LARGEST, turn_over
from fedrelease.errors import ExperimentError
from fedrelease.server.tracing import Fact, Tracer, traced_by

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

__all__ = ["FILE", "check_traces", "lacking", "traces"]

FILE = "traces.jsonl"
TO_FILE = "file"
PREFIX = "fedrelease."
ANSWER_S = 5.0
OWN_HOSTS = ("127.0.0.1", "localhost")


def check_traces(text: str, place: str) -> None:
    """Go on if this says where traces go.

    Raises:
        ExperimentError: it does not, or they would leave this machine in the clear.
    """
    if text in ("", TO_FILE):
        return
    address = urlsplit(text)
    if address.scheme == "https" or (address.scheme == "http" and address.hostname in OWN_HOSTS):
        return
    rule = "file, or a collector's address: https://..., or http:// on this machine, such as http://127.0.0.1:4318/v1/traces"
    raise ExperimentError(f"{place}: traces have no such place", value=text, rule=rule)


def lacking(wished: str) -> str | None:
    """What is missing for traces that are wished for."""
    if not wished or find_spec("opentelemetry") is not None:
        return None
    return (
        'traces are wished for, and OpenTelemetry is not installed: pip install -c constraints.txt "fedrelease[otel]"'
    )


@contextmanager
def traces(wished: str, folder: Path, *, run: str) -> Iterator[None]:
    """Trace the block to where ``wished`` says; nothing where nothing is wished for, or the extra is missing."""
    if not wished or lacking(wished):
        yield
        return
    with ExitStack() as opened:
        if wished == TO_FILE:
            provider = _provider(_to_file(opened.enter_context(_file(folder))), run)
        else:
            provider = _provider(_to_collector(wished), run)
        opened.callback(provider.shutdown)  # before the file is closed: what is left is written
        opened.enter_context(traced_by(_Tracer(provider)))
        yield


@contextmanager
def _file(folder: Path) -> Iterator[TextIO]:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST:
        turn_over(path)
    with path.open("a", encoding="utf-8") as file:
        yield file


def _line(span: "ReadableSpan") -> str:
    return str(span.to_json(indent=None)) + "\n"


def _to_file(file: TextIO) -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    return SimpleSpanProcessor(ConsoleSpanExporter(out=file, formatter=_line))


def _to_collector(address: str) -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=ANSWER_S))


def _provider(processor: "SpanProcessor", run: str) -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    about = {"service.name": "fedrelease", "service.version": __version__, "fedrelease.run": run}
    provider = TracerProvider(resource=Resource(about), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


@final
class _Tracer(Tracer):
    """Hands spans to OpenTelemetry."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer = provider.get_tracer("fedrelease", __version__)

    @contextmanager
    def span(self, name: str, facts: Mapping[str, Fact]) -> Iterator[None]:
        """As OpenTelemetry has it; an error that ends the block is told by its kind alone."""
        from opentelemetry.trace import Status, StatusCode

        with self._tracer.start_as_current_span(
            f"{PREFIX}{name}", attributes=_told(facts), record_exception=False, set_status_on_exception=False
        ) as made:
            try:
                yield
            except BaseException as error:
                made.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def spanned(self, name: str, facts: Mapping[str, Fact]) -> None:
        """A span that begins when the open one did."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import get_current_span

        around = get_current_span()
        begun = around.start_time if isinstance(around, ReadableSpan) else None
        self._tracer.start_span(f"{PREFIX}{name}", start_time=begun, attributes=_told(facts)).end()


def _told(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {f"{PREFIX}{key}": value for key, value in facts.items()}
