"""W3C Trace Context, in and out, and which spans a task works for. Ids only: nothing here makes a span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts.telemetry import TRACEPARENT_HEADER
from observability.context import LogContext, current

TRACESTATE_HEADER = "tracestate"
HEADER_CHARACTERS_MAX = 512
"""A longer `traceparent` or `tracestate` is ignored, as the propagator would, but without a line in the log that
everybody can have written."""

ROOT = Context()
"""In which no span is current."""

_W3C = TraceContextTextMapPropagator()


def span_context(traceparent: str | None, tracestate: str | None = None) -> SpanContext | None:
    """The span that W3C headers name. None for none, and for malformed ones."""
    if not traceparent or len(traceparent) > HEADER_CHARACTERS_MAX:
        return None
    carrier = {TRACEPARENT_HEADER: traceparent}
    if tracestate and len(tracestate) <= HEADER_CHARACTERS_MAX:
        carrier[TRACESTATE_HEADER] = tracestate
    context = trace.get_current_span(_W3C.extract(carrier, ROOT)).get_span_context()
    return context if context.is_valid else None


def caller_of(headers: Iterable[tuple[bytes, bytes]]) -> SpanContext | None:
    """The span that the headers of an ASGI scope name."""
    found = dict(headers)
    traceparent, tracestate = found.get(TRACEPARENT_HEADER.encode()), found.get(TRACESTATE_HEADER.encode(), b"")
    return None if traceparent is None else span_context(traceparent.decode("latin-1"), tracestate.decode("latin-1"))


def logged_within(context: SpanContext) -> Token[LogContext | None]:
    """From now on the log lines of this task name that span; `current.reset` of observability.context ends it."""
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return current.set(LogContext("", trace_id, span_id))


def current_context() -> SpanContext | None:
    """The span that is active in this task, if there is one."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def current_headers() -> dict[str, str]:
    """`traceparent` and `tracestate` of the span that is active in this task; nothing where there is none."""
    return headers_of(trace.get_current_span())


_callers: ContextVar[tuple[SpanContext, ...]] = ContextVar("pharos_callers", default=())


@contextmanager
def on_behalf_of(callers: Sequence[SpanContext | None]) -> Iterator[None]:
    """While entered, what this task does is for these spans: see `callers_now`."""
    token = _callers.set(tuple(caller for caller in callers if caller is not None))
    try:
        yield
    finally:
        _callers.reset(token)


def callers_now() -> tuple[SpanContext, ...]:
    """The spans for which this task works."""
    return _callers.get()


def headers_of(span: Span) -> dict[str, str]:
    """What goes downstream of `span`: `traceparent` and, where there is one, `tracestate`."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, ROOT))
    return carrier
