"""Spans of the model service: one for each /encode and one for each prompt, around code that knows nothing of them;
and how vLLM's own spans get to the same place. The wrappers are only there when traces are on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

import msgspec
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanKind
from starlette.types import ASGIApp, Receive, Scope, Send

from app.merging import MergingEncoder, MergingReranker
from app_llm.generator import HoldingGenerator, WrappedGenerator
from contracts.telemetry import Outcome
from contracts.types import Delta, Encoding, Frame, Pair, Prompt, Scores
from observability import semconv
from observability.context import current
from observability.settings import TelemetrySettings
from observability.trace_context import caller_of, current_context, logged_within, span_context
from observability.tracing import OpenSpan, Tracing


class CallersSpan:
    """Pure ASGI middleware: the span that the request's headers name is the current one, and the one that log lines
    name, while it is served."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = None
        if scope["type"] == "http":
            context = caller_of(scope["headers"])
        if context is None:
            await self._app(scope, receive, send)
            return
        in_logs = logged_within(context)
        try:
            with trace.use_span(NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
                await self._app(scope, receive, send)
        finally:
            current.reset(in_logs)


class TracedEncoder:
    """The service's encoder, with a span for each call."""

    def __init__(self, encoder: MergingEncoder, tracing: Tracing, model: str) -> None:
        self._encoder = encoder
        self._tracing = tracing
        self._model = model

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._tracing.begin(
            f"{semconv.EMBEDDINGS} {self._model}",
            parent=current_context(),
            attributes={semconv.GEN_AI_REQUEST_MODEL: self._model},
        ) as span:
            served = await self._encoder.served(texts, deadline=deadline)
            if span.recording:
                span.set({**semconv.of_encoding(served.value), semconv.PHAROS_QUEUE_SECONDS: served.queued_seconds})
            return served.value


class TracedReranker:
    """The service's reranker, with a span for each call."""

    def __init__(self, reranker: MergingReranker, tracing: Tracing, model: str) -> None:
        self._reranker = reranker
        self._tracing = tracing
        self._model = model

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._tracing.begin(
            f"{semconv.RERANK} {self._model}",
            parent=current_context(),
            attributes={semconv.GEN_AI_REQUEST_MODEL: self._model},
        ) as span:
            served = await self._reranker.served(pairs, deadline=deadline)
            if span.recording:
                span.set({**semconv.of_scores(served.value), semconv.PHAROS_QUEUE_SECONDS: served.queued_seconds})
            return served.value


class TracedGenerator(WrappedGenerator):
    """The service's generator, with a span for each prompt inside the one that the prompt names. What runs the prompt
    is told of this span in its place."""

    def __init__(self, generator: HoldingGenerator, tracing: Tracing, model: str) -> None:
        super().__init__(generator)
        self._tracing = tracing
        self._model = model

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As `BatchedGenerator.generate`."""
        running = {prompt.request_id: _PromptSpan(prompt, self._tracing, self._model) for prompt in prompts}
        told = [
            msgspec.structs.replace(prompt, traceparent=running[prompt.request_id].span.traceparent)
            for prompt in prompts
        ]
        try:
            async with aclosing(self._generator.generate(told)) as frames:
                async for frame in frames:
                    for delta in frame.deltas:
                        if running[delta.request_id].saw(delta):
                            del running[delta.request_id]
                    yield frame
        except Exception as exc:  # whatever it is, it goes on
            for prompt_span in running.values():
                prompt_span.span.end(error=exc)
            raise
        finally:
            for prompt_span in running.values():
                prompt_span.left()


class _PromptSpan:
    def __init__(self, prompt: Prompt, tracing: Tracing, model: str) -> None:
        attributes = semconv.of_prompt(prompt, model)
        self._began = time.monotonic()
        self._first: float | None = None
        self.span: OpenSpan = tracing.begin(
            f"{attributes[semconv.GEN_AI_OPERATION_NAME]} {model}",
            kind=SpanKind.SERVER,
            parent=span_context(prompt.traceparent) or current_context(),
            attributes=attributes,
            started=self._began,
        )

    def saw(self, delta: Delta) -> bool:
        """Take note; true at the end."""
        if self._first is None and delta.tokens:
            self._first = time.monotonic()
        if delta.finish_reason is None:
            return False
        attributes = self._attributes()
        attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = [delta.finish_reason]
        if delta.usage is not None:
            attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] = delta.usage.prompt_tokens
            attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] = delta.usage.completion_tokens
        outcome = Outcome.CANCELLED if delta.finish_reason == "abort" else Outcome.OK
        if delta.error is None:
            self.span.end(attributes, outcome=outcome)
        else:
            self.span.end(attributes, error=delta.error.code)
        return True

    def left(self) -> None:
        """Nobody reads on."""
        self.span.end(self._attributes(), outcome=Outcome.CANCELLED)

    def _attributes(self) -> dict[str, float | int | Sequence[str]]:
        if self._first is None:
            return {}
        return {semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: self._first - self._began}


@contextmanager
def vllm_joins(tracing: Tracing, settings: TelemetrySettings) -> Iterator[str | None]:
    """While vLLM boots: the endpoint it is to be given, so that its spans leave by our provider, as this service's.

    vLLM makes a provider of its own and offers it as OpenTelemetry's global one, through which it then makes its spans.
    The first offer counts, so ours comes before; its own, with the default settings and up to 30 s to shut down, stays
    empty. Its engine runs in another process, whose spans (of the boot) are by the environment's settings.
    """
    if tracing.provider is None:
        yield None
        return
    trace.set_tracer_provider(tracing.provider)
    os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    for name, value in (
        ("OTEL_SERVICE_NAME", "app_llm"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            f"{semconv.SERVICE_NAMESPACE}={semconv.PHAROS},"
            f"{semconv.DEPLOYMENT_ENVIRONMENT_NAME}={settings.environment}",
        ),
    ):
        os.environ.setdefault(name, value)
    logger = logging.getLogger("opentelemetry.trace")
    logger.addFilter(_is_not_the_second_offer)
    try:
        yield settings.traces_endpoint
    finally:
        logger.removeFilter(_is_not_the_second_offer)


def _is_not_the_second_offer(record: logging.LogRecord) -> bool:
    """False for what OpenTelemetry says of the second offer."""
    return not record.getMessage().startswith("Overriding of current TracerProvider")
