"""Metrics of the gateway, as wrappers and hooks: the code they measure knows nothing of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from prometheus_client import CollectorRegistry

from app.asking import Asker, AskEvent, AskRequest, Done
from contracts import telemetry
from contracts.types import Timings


class Metrics:
    """The gateway's own series, in a registry of their own so that several gateways fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stage = telemetry.STAGE_SECONDS.histogram(self.registry)
        self._first_token = telemetry.FIRST_TOKEN_SECONDS.histogram(self.registry)
        self._batch_items = telemetry.BATCH_ITEMS.histogram(self.registry)
        self._batch_wait = telemetry.BATCH_WAIT_SECONDS.histogram(self.registry)

    def on_batch(self, kind: str, items: int, wait_seconds: float) -> None:
        """Hook of every batcher."""
        self._batch_items.labels(kind).observe(items)
        self._batch_wait.labels(kind).observe(wait_seconds)

    def observe(self, timings: Timings) -> None:
        """Note the stages of one answered question."""
        for stage in ("queue", "encode", "search", "generate", "total"):
            seconds = getattr(timings, stage)
            if seconds is not None:
                self._stage.labels(stage).observe(seconds)
        if timings.time_to_first_token is not None:
            self._first_token.observe(timings.time_to_first_token)


class InstrumentedAsker:
    """An `Asker` whose answers are measured."""

    def __init__(self, asker: Asker, metrics: Metrics) -> None:
        self._asker = asker
        self._metrics = metrics

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """As `Asker.ask`."""
        async with aclosing(self._asker.ask(request)) as events:
            async for event in events:
                if isinstance(event, Done):
                    self._metrics.observe(event.timings)
                yield event
