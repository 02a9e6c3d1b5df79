"""Every request seen from its first byte to its last: pure ASGI middleware around all others.

It begins a record and a span, and when the request has ended makes of them the counts, one log line, and the span's
stages. Between the two the steps of the work fill the record; errors come from where they are answered
(`contracts.problems.PROBLEM`), and so does that the client went away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.routes import sse
from app.telemetry.metrics import ASKING, Metrics
from app.telemetry.record import Problem, RequestRecord, current_record
from app.terms import Terms
from contracts.problems import CLIENT_LEFT, INTERNAL, PROBLEM
from contracts.telemetry import OTHER, REQUEST_EVENT, REQUEST_LOGGER, Outcome, Stage
from observability import semconv
from observability.context import LogContext, current
from observability.http_metrics import METHODS
from observability.trace_context import caller_of
from observability.tracing import Tracing

log = logging.getLogger(REQUEST_LOGGER)

UNTRACKED = frozenset({"/metrics", "/healthz", "/readyz"})
"""Asked by machines every few seconds; their own metrics say enough."""

_EVENT_STREAM = (b"content-type", sse.MEDIA_TYPE.encode())


class Observed:
    """`routes` are the paths there are: what else a client asks for is `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing, routes: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACKED:
            await self._app(scope, receive, send)
            return
        record = self._begin(scope)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.stream = _EVENT_STREAM in message["headers"]
            await send(message)

        in_record = current_record.set(record)
        in_logs = current.set(LogContext(record.request_id, record.span.trace_id, record.span.span_id))
        try:
            with record.span.active():
                await self._app(scope, receive, send_and_note)
        except Exception:  # Starlette answers it, outside of all middleware
            scope["state"].setdefault(PROBLEM, (500, INTERNAL))
            record.status = record.status or 500
            raise
        except asyncio.CancelledError:
            record.cut = True
            raise
        finally:
            self._end(record, scope)
            current.reset(in_logs)
            current_record.reset(in_record)

    def _begin(self, scope: Scope) -> RequestRecord:
        path = scope["path"]
        route = path if path in self._routes else OTHER
        method = scope["method"] if scope["method"] in METHODS else OTHER
        span = self._tracing.begin(
            method if route is OTHER else f"{method} {route}",
            kind=SpanKind.SERVER,
            parent=caller_of(scope["headers"]),
        )
        return RequestRecord(scope["state"]["request_id"], method, route, route in ASKING, span)

    def _end(self, record: RequestRecord, scope: Scope) -> None:
        state = scope["state"]
        record.problem = Problem(*state[PROBLEM]) if PROBLEM in state else None
        record.left = CLIENT_LEFT in state
        route = scope.get("route")  # set by the router, which a refused request never reached
        record.route = getattr(route, "path", record.route)
        terms = state.get("terms")
        if isinstance(terms, Terms) and terms.quota is not None:
            record.api_key = terms.quota.name
        self._metrics.ended(record)
        self._log(record)
        self._end_span(record)

    def _log(self, record: RequestRecord) -> None:
        outcome = record.outcome
        level = logging.WARNING if outcome in (Outcome.ERROR, Outcome.TIMEOUT) else logging.INFO
        if log.isEnabledFor(level):
            fields = record.fields()
            status = fields.get("status", "-")
            message = f"{record.method} {record.route} {status} {outcome.value} {fields['total_seconds']:.3f} s"
            log.log(level, message, extra={"fields": {"event": REQUEST_EVENT, **fields}})

    def _end_span(self, record: RequestRecord) -> None:
        span = record.span
        if span.recording:
            for stage, began, ended in record.stages:
                if stage is not Stage.QUEUE or ended - began > 0.0005:  # without the waits that were none
                    span.stage(stage.value, began, ended)
            span.set(_attributes(record))
        failed = record.outcome in (Outcome.ERROR, Outcome.TIMEOUT)
        code = INTERNAL if record.problem is None else record.problem.code
        span.end(outcome=record.outcome, status=record.status, error=code if failed else None)


def _attributes(record: RequestRecord) -> dict[str, str | int | float]:
    known: dict[str, str | int | float | None] = {
        semconv.HTTP_REQUEST_METHOD: record.method,
        semconv.HTTP_ROUTE: record.route,
        semconv.PHAROS_REQUEST_ID: record.request_id,
        semconv.PHAROS_PROBLEM_CODE: None if record.problem is None else record.problem.code,
        semconv.PHAROS_STREAM: record.stream if record.asks else None,
        semconv.PHAROS_TOPIC: None if record.topics is None else record.topic,
        semconv.PHAROS_PASSAGES: record.passages,
        semconv.PHAROS_BEST_SCORE: record.best_score,
        semconv.PHAROS_CACHED: record.cached,
        semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: None
        if record.first_token is None
        else record.first_token - record.arrived,
        semconv.GEN_AI_USAGE_INPUT_TOKENS: None if record.usage is None else record.usage.prompt_tokens,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: record.tokens if record.asks else None,
    }
    return {name: value for name, value in known.items() if value is not None}
