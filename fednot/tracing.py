"""Spans of OpenTelemetry, if a process was told to trace; else nothing is imported or recorded.

Spans tell what was done, of which job and round, and for how long. What an exception says stays out
of them, since a Task's may name persons; its type does not.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

import fednot

TRACEPARENT_KEY: Final = "traceparent"
STOP_SECONDS: Final = 3.0
"""How long the end of a process may wait for spans to be sent."""

SWITCHES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that turn tracing on as the flag does."""

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REMOTE: Final[ContextVar[str]] = ContextVar("traceparent", default="")

Attribute = str | int | float | bool
Kind = Literal["internal", "client", "server"]


class TracingError(Exception):
    """Tracing was asked for and cannot be; the message says what to do."""


class Span:
    """What a block may add to its span; this one records nothing."""

    def set(self, **attributes: Attribute) -> None:
        """Adds attributes, which name no person and no sample."""

    def fail(self, error: BaseException) -> None:
        """Says that the span's work failed, by the type of the error alone."""


NOTHING: Final = Span()


class _Tracer:
    """The only place that knows OpenTelemetry; it is made once a process is to trace."""

    def __init__(self, service: str, endpoint: str, environment: Mapping[str, str]) -> None:
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.context: Final = context
        self.trace: Final = trace
        told = {"service.version": fednot.__version__, "host.name": socket.gethostname()}
        if "OTEL_SERVICE_NAME" not in environment:
            told["service.name"] = service
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
        self._provider: Final = TracerProvider(
            resource=Resource.create(told), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer: Final = self._provider.get_tracer("fednot", fednot.__version__)

    def current(self) -> Any:
        """What identifies the span that a new one would be a child of; not valid if none is."""
        return self.trace.get_current_span().get_span_context()

    def remote(self, traceparent: str) -> Any:
        """A context in which a span of another process is the current one."""
        span = self.trace.INVALID_SPAN
        if traceparent:
            _, trace_id, span_id, flags = traceparent.split("-")
            span = self.trace.NonRecordingSpan(
                self.trace.SpanContext(
                    int(trace_id, 16),
                    int(span_id, 16),
                    is_remote=True,
                    trace_flags=self.trace.TraceFlags(int(flags, 16)),
                )
            )
        return self.trace.set_span_in_context(span)

    def started(self, name: str, kind: Kind, start: float, told: Mapping[str, Attribute]) -> Any:
        return self.tracer.start_span(
            name,
            kind=self.trace.SpanKind[kind.upper()],
            attributes=dict(told),
            start_time=int(start * 1e9),
            record_exception=False,
            set_status_on_exception=False,
        )

    def stop(self) -> None:
        """Sends what is left, for STOP_SECONDS at the most."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)


class _Recorded(Span):
    def __init__(self, tracer: _Tracer, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_named(attributes))

    def fail(self, error: BaseException) -> None:
        code = self._tracer.trace.StatusCode.ERROR
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(self._tracer.trace.Status(code))


_active: list[_Tracer] = []


def start(service: str, endpoint: str, environment: Mapping[str, str]) -> None:
    """Traces from now on, if an endpoint or a variable of SWITCHES says so; OTEL_SDK_DISABLED=true
    says no. `stop` ends it.

    Raises TracingError if the extra is not installed, or the endpoint is not one.
    """
    wanted = endpoint or any(environment.get(name) for name in SWITCHES)
    if not wanted or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise TracingError(
            f"--trace-endpoint {endpoint!r} is no endpoint; write http://HOST:4317, or https:// "
            "for a collector over TLS"
        )
    try:
        tracer = _Tracer(service, endpoint, environment)
    except ImportError as error:
        raise TracingError(
            "tracing needs OpenTelemetry, which is not installed: pip install 'fednot[tracing]', "
            f"or leave --trace-endpoint and {' and '.join(SWITCHES)} out"
        ) from error
    _active[:] = [tracer]


def stop() -> None:
    """Sends the spans that are left, for STOP_SECONDS at the most, and traces no more."""
    if _active:
        _active.pop().stop()


def is_traceparent(text: str) -> bool:
    """Whether a text is a traceparent of W3C's version 00."""
    return bool(_TRACEPARENT.fullmatch(text))


def traceparent() -> str:
    """That of the current span, or the one that came from outside if this process records none."""
    if _active:
        found = _active[0].current()
        if found.is_valid:
            return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"
    return _REMOTE.get()


def begin(parent: str) -> None:
    """Makes a span of another process the current one for the rest of the running task."""
    _REMOTE.set(parent)
    if _active:
        _active[0].context.attach(_active[0].remote(parent))


@contextmanager
def within(parent: str) -> Iterator[None]:
    """Makes a span of another process the current one; "" leaves the current one."""
    if not parent:
        yield
        return
    before = _REMOTE.set(parent)
    tracer = _active[0] if _active else None
    token = tracer.context.attach(tracer.remote(parent)) if tracer else None
    try:
        yield
    finally:
        _REMOTE.reset(before)
        if tracer and token:
            tracer.context.detach(token)


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", root: bool = False, **attributes: Attribute
) -> Iterator[Span]:
    """Records what a block does, as a child of the current span; only a root may have none."""
    tracer = _active[0] if _active else None
    if tracer is None or not (root or tracer.current().is_valid):
        yield NOTHING
        return
    found = tracer.started(name, kind, time.time(), _named(attributes))
    recorded = _Recorded(tracer, found)
    token = tracer.context.attach(tracer.trace.set_span_in_context(found))
    try:
        yield recorded
    except BaseException as error:
        recorded.fail(error)
        raise
    finally:
        tracer.context.detach(token)
        found.end()


def past(name: str, since: float, **attributes: Attribute) -> None:
    """Records a child of the current span that began at `since`, epoch seconds, and ends now."""
    tracer = _active[0] if _active else None
    if tracer is not None and tracer.current().is_valid:
        tracer.started(name, "internal", since, _named(attributes)).end()


class Served:
    """A span of a call that is served, current from its start to the end of the running task."""

    def __init__(self, name: str, *, root: bool) -> None:
        self._span: Any = None
        self._recorded = NOTHING
        tracer = _active[0] if _active else None
        if tracer is not None and (root or tracer.current().is_valid):
            self._span = tracer.started(name, "server", time.time(), {"rpc.system": "grpc"})
            self._recorded = _Recorded(tracer, self._span)
            tracer.context.attach(tracer.trace.set_span_in_context(self._span))

    def fail(self, error: BaseException) -> None:
        """Says that the call failed, by the type of the error alone."""
        self._recorded.fail(error)

    def end(self) -> None:
        """Ends the span."""
        if self._span is not None:
            self._span.end()


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {f"fednot.{name}": value for name, value in attributes.items()}
