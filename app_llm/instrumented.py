"""Metrics of the model service, as wrappers around its ports: what they measure knows nothing of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from prometheus_client import CollectorRegistry

from app.merging import MergingEncoder
from app.watching import DROP_REASONS, DropReason, Unwatched
from app_llm.generator import HoldingGenerator
from contracts import telemetry
from contracts.ports import Encoder
from contracts.types import Delta, Encoding, Frame, Prompt

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
        self.encoding = EncodeWatch(registry)
        self._held = telemetry.PROMPTS_HELD.gauge(registry)
        self._at_once = telemetry.PROMPTS_AT_ONCE.gauge(registry)
        self._queued = telemetry.QUEUE_ITEMS.gauge(registry).labels("encode")
        self._queue_max = telemetry.QUEUE_ITEMS_MAX.gauge(registry).labels("encode")

    def watch(self, generator: HoldingGenerator, encoder: MergingEncoder) -> None:
        """From now on the gauges are what these say when they are scraped."""
        self._held.set_function(lambda: generator.held)
        self._at_once.set_function(lambda: generator.at_once)
        self._queued.set_function(lambda: encoder.batcher.queued)
        self._queue_max.set(encoder.batcher.queue_items)


class EncodeWatch(Unwatched):
    """Implements `app.watching.BatchWatch` for the encoder's batcher, whose items are calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = telemetry.BATCH_ITEMS.histogram(registry).labels("encode")
        self._wait = telemetry.BATCH_WAIT_SECONDS.histogram(registry).labels("encode")
        dropped = telemetry.QUEUE_DROPPED.counter(registry)
        self._dropped = {reason: dropped.labels("encode", reason) for reason in DROP_REASONS}

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
        self._items.observe(items)
        self._wait.observe(oldest_wait_seconds)

    def item_dropped(self, reason: DropReason) -> None:
        self._dropped[reason].inc()


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


class InstrumentedGenerator:
    """A `HoldingGenerator` whose frames are measured: once a frame, since a token has no microsecond to spare."""

    def __init__(self, generator: HoldingGenerator, metrics: Metrics) -> None:
        self._generator = generator
        self._metrics = metrics

    @property
    def held(self) -> int:
        """Prompts accepted and not ended."""
        return self._generator.held

    @property
    def at_once(self) -> int:
        """Prompts the engine runs at the same time."""
        return self._generator.at_once

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

    async def abort(self, request_ids: Sequence[str]) -> None:
        """As the port says."""
        await self._generator.abort(request_ids)

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
