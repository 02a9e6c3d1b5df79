"""Traces: W3C Trace Context in and out, OpenTelemetry's spans, sent as OTLP over HTTP by a thread of their own.

Without an endpoint nothing is recorded or sent, and the SDK is not even imported. A request has a trace id all the
same, for logs and exemplars: that of the `traceparent` it came with, which then goes on downstream as it is, or a new
one.

A span's times come from the monotonic clock; the wall clock is read once, as it begins. Of an error a span says the
type and never the message, which may quote what somebody asked.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from contracts.telemetry import TRACEPARENT_HEADER, Outcome
from observability import semconv
from observability.settings import TelemetrySettings
from observability.trace_context import ROOT, headers_of, span_context

if TYPE_CHECKING:
    from observability.span_export import Exporting

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

_NS = 1_000_000_000


class OpenSpan:
    """A span that has begun. All of it is cheap and safe to call when nothing is recorded."""

    __slots__ = ("_block", "_ended", "_offset_ns", "_span", "_tracing")

    def __init__(self, tracing: Tracing, span: Span, offset_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self._offset_ns = offset_ns
        self._ended = False

    @property
    def context(self) -> SpanContext:
        """For links, and for children in other tasks."""
        return self._span.get_span_context()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return trace.format_trace_id(self.context.trace_id)

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits. Without an endpoint it is the caller's span, where there is one."""
        return trace.format_span_id(self.context.span_id)

    @property
    def sampled(self) -> bool:
        """The trace is kept: here, or, without an endpoint here, by whoever began it."""
        return self.context.trace_flags.sampled

    @property
    def recording(self) -> bool:
        """This span will be sent, so that attributes are worth making."""
        return self._span.is_recording()

    @property
    def headers(self) -> dict[str, str]:
        """What goes downstream: `traceparent` and, where there is one, `tracestate`."""
        return headers_of(self._span)

    @property
    def traceparent(self) -> str:
        """What goes downstream where there is no room for headers."""
        return self.headers[TRACEPARENT_HEADER]

    def active(self) -> AbstractContextManager[Span]:
        """While entered, OpenTelemetry's current span of this task and of the tasks it starts. Not to be held across
        the `yield` of an async generator, whose next step may be another task's."""
        return trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Active until the block is over, which ends it: as failed where the block raises."""
        self._block = self.active()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, exc, trace)
        if isinstance(exc, asyncio.CancelledError):
            self.end(outcome=Outcome.CANCELLED)
        else:
            self.end(error=exc)

    def set(self, attributes: Attributes) -> None:
        """Add attributes before the end."""
        if self.recording:
            self._span.set_attributes(attributes)

    def stage(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: BaseException | str | None = None,
    ) -> None:
        """A span inside this one that is already over; both ends are `time.monotonic()` instants."""
        if self.recording:
            child = self._tracing.begin(
                name, kind=kind, parent=self.context, attributes=attributes, started=started, offset_ns=self._offset_ns
            )
            child.end(error=error, ended=ended)

    def end(
        self,
        attributes: Attributes | None = None,
        *,
        outcome: Outcome | None = None,
        status: int | None = None,
        error: BaseException | str | None = None,
        ended: float | None = None,
    ) -> None:
        """It is over: now, or at the `time.monotonic()` instant `ended`. Once is enough; later calls change nothing.

        `status` is the HTTP status answered. `error` is an exception or a problem's code; with it the span counts as
        failed.
        """
        if self._ended:
            return
        self._ended = True
        if not self.recording:
            return
        span = self._span
        if attributes:
            span.set_attributes(attributes)
        if outcome is not None:
            span.set_attribute(semconv.PHAROS_OUTCOME, outcome.value)
        if status is not None:
            span.set_attribute(semconv.HTTP_RESPONSE_STATUS_CODE, status)
        if error is not None:
            kind = error if isinstance(error, str) else type(error).__name__
            span.set_attribute(semconv.ERROR_TYPE, kind)
            span.set_status(Status(StatusCode.ERROR))
        ended_ns = time.monotonic_ns() if ended is None else int(ended * _NS)
        span.end(self._offset_ns + ended_ns)


class Tracing:
    """Begins spans. Made by `start_tracing`; an async context whose end sends what is left, within two seconds."""

    def __init__(self, exporting: Exporting | None = None) -> None:
        self._exporting = exporting

    @property
    def on(self) -> bool:
        """There is an endpoint. Off, spans only carry ids."""
        return self._exporting is not None

    @property
    def provider(self) -> trace.TracerProvider | None:
        """OpenTelemetry's, for a library that makes spans of its own."""
        return None if self._exporting is None else self._exporting.provider

    def begin(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.SERVER,
        traceparent: str | None = None,
        tracestate: str | None = None,
        parent: SpanContext | None = None,
        links: Sequence[SpanContext] = (),
        attributes: Attributes | None = None,
        started: float | None = None,
        offset_ns: int | None = None,
    ) -> OpenSpan:
        """A span that begins now, or did at the `time.monotonic()` instant `started`.

        Its parent is `parent`, or else what the headers say; never OpenTelemetry's current span, since a task that
        serves a batch has inherited that of any one of its callers. A malformed header is as none. `links` are the
        spans for which this one does its work, where they are several. `offset_ns` is what the wall clock is ahead of
        the monotonic one, where that has been measured.
        """
        if parent is None:
            parent = span_context(traceparent, tracestate)
        if offset_ns is None:
            offset_ns = time.time_ns() - time.monotonic_ns()
        if self._exporting is None:
            context = parent or _new_context()
            return OpenSpan(self, NonRecordingSpan(context), offset_ns)
        started_ns = time.monotonic_ns() if started is None else int(started * _NS)
        span = self._exporting.tracer.start_span(
            name,
            ROOT if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), ROOT),
            kind,
            attributes,
            [Link(link) for link in links],
            offset_ns + started_ns,
        )
        return OpenSpan(self, span, offset_ns)

    def begin_batch(self, name: str, callers: Sequence[SpanContext], attributes: Attributes | None = None) -> OpenSpan:
        """A CLIENT span for one call that does the work of several requests: inside the only one's trace, or else a
        trace of its own with links to each, as OpenTelemetry does it for batches of messages. It is kept when one of
        theirs is."""
        distinct = list({(caller.trace_id, caller.span_id): caller for caller in callers}.values())
        told = {semconv.PHAROS_CALLERS: len(distinct), **(attributes or {})}
        if len(distinct) == 1:
            return self.begin(name, kind=SpanKind.CLIENT, parent=distinct[0], attributes=told)
        return self.begin(name, kind=SpanKind.CLIENT, links=distinct, attributes=told)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Send what is left; what cannot be sent within `span_export.SHUTDOWN_SECONDS` is lost. Blocks so long."""
        if self._exporting is not None:
            self._exporting.close()


def start_tracing(service: str, settings: TelemetrySettings, version: str) -> Tracing:
    """The traces of one service ("app", "app_llm"), to be closed. Off where `settings` names no endpoint, and where
    OpenTelemetry's own OTEL_SDK_DISABLED says so."""
    if not settings.traces_endpoint or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Tracing()
    from observability.span_export import Exporting

    return Tracing(Exporting(service, settings, version))


def _new_context() -> SpanContext:
    """Of a trace that begins here and is not kept."""
    return SpanContext(
        random.getrandbits(127) + 1, random.getrandbits(63) + 1, False, TraceFlags(TraceFlags.RANDOM_TRACE_ID)
    )
