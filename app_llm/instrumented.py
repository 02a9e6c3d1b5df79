"""Metrics of the model service, as wrappers around its ports: what they measure knows nothing of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from prometheus_client import CollectorRegistry

from app.batch_metrics import BatchMetrics, CountedBatches
from app.merging import MergingEncoder, MergingReranker
from app_llm.generator import HoldingGenerator, WrappedGenerator
from contracts import telemetry
from contracts.ports import Encoder, Reranker
from contracts.types import Delta, Encoding, Frame, Pair, Prompt, Scores

_TIMEOUT, _ENGINE_ERROR = "deadline_exceeded", "engine_failed"


class Metrics:
    """The model service's own series. All of them are there from the start, at zero."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ended = telemetry.PROMPTS_ENDED.counter(registry)
        self.ended = {reason: ended.labels(reason) for reason in telemetry.PROMPT_REASONS}
        self.tokens = telemetry.LLM_TOKENS.counter(registry)
        self.encoded_texts = telemetry.ENCODED_TEXTS.counter(registry)
        self.encoded_tokens = telemetry.ENCODED_TOKENS.counter(registry)
        self.encode_seconds = telemetry.ENCODE_SECONDS.histogram(registry)
        self.reranked_pairs = telemetry.RERANKED_PAIRS.counter(registry)
        self.reranked_tokens = telemetry.RERANKED_TOKENS.counter(registry)
        self.rerank_seconds = telemetry.RERANK_SECONDS.histogram(registry)
        batches = BatchMetrics(registry)  # whose items are calls
        self.encoding = CountedBatches(batches, "encode")
        self.reranking = CountedBatches(batches, "rerank")
        self._held = telemetry.PROMPTS_HELD.gauge(registry)
        self._at_once = telemetry.PROMPTS_AT_ONCE.gauge(registry)
        self._queued = telemetry.QUEUE_ITEMS.gauge(registry)
        self._queue_max = telemetry.QUEUE_ITEMS_MAX.gauge(registry)

    def watch(
        self, generator: HoldingGenerator, encoder: MergingEncoder, reranker: MergingReranker | None = None
    ) -> None:
        """From now on the gauges are what these say when they are scraped."""
        self._held.set_function(lambda: generator.held)
        self._at_once.set_function(lambda: generator.at_once)
        self._queued.labels("encode").set_function(lambda: encoder.batcher.queued)
        self._queue_max.labels("encode").set(encoder.batcher.queue_items)
        if reranker is not None:
            self._queued.labels("rerank").set_function(lambda: reranker.batcher.queued)
            self._queue_max.labels("rerank").set(reranker.batcher.queue_items)


class InstrumentedEncoder:
    """An `Encoder` whose batches are measured."""

    def __init__(self, encoder: Encoder, metrics: Metrics) -> None:
        self._encoder = encoder
        self._metrics = metrics

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says. Only what succeeds is counted."""
        started = time.perf_counter()
        encoding = await self._encoder.encode(texts, timeout_seconds=timeout_seconds)
        metrics = self._metrics
        metrics.encode_seconds.observe(time.perf_counter() - started)
        metrics.encoded_texts.inc(len(texts))
        metrics.encoded_tokens.inc(sum(encoding.tokens))
        return encoding


class InstrumentedReranker:
    """A `Reranker` whose batches are measured."""

    def __init__(self, reranker: Reranker, metrics: Metrics) -> None:
        self._reranker = reranker
        self._metrics = metrics

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says. Only what succeeds is counted."""
        started = time.perf_counter()
        scores = await self._reranker.rerank(pairs, timeout_seconds=timeout_seconds)
        metrics = self._metrics
        metrics.rerank_seconds.observe(time.perf_counter() - started)
        metrics.reranked_pairs.inc(len(pairs))
        metrics.reranked_tokens.inc(sum(scores.tokens))
        return scores


class InstrumentedGenerator(WrappedGenerator):
    """A `HoldingGenerator` whose frames are measured: once a frame, since a token has no microsecond to spare."""

    def __init__(self, generator: HoldingGenerator, metrics: Metrics) -> None:
        super().__init__(generator)
        self._metrics = metrics

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As the port says. Prompts that have not ended when the stream is closed are counted as aborted."""
        left = 0
        begun = False
        try:
            async with aclosing(self._generator.generate(prompts)) as frames:
                async for frame in frames:
                    if not begun:  # only now have they been accepted
                        begun, left = True, len(prompts)
                    left -= self._count(frame)
                    yield frame
        finally:
            if left:
                self._metrics.ended["abort"].inc(left)

    def _count(self, frame: Frame) -> int:
        """How many prompts end with this frame."""
        tokens = ended = 0
        for delta in frame.deltas:
            tokens += delta.tokens
            if delta.finish_reason is not None:
                ended += 1
                self._metrics.ended[_reason(delta)].inc()
        if tokens:
            self._metrics.tokens.inc(tokens)
        return ended


def _reason(delta: Delta) -> str:
    if delta.error is None:
        return str(delta.finish_reason)
    if delta.error.code == _TIMEOUT:
        return "timeout"
    return "error" if delta.error.code == _ENGINE_ERROR else "refused"
