"""What both services measure of their batchers. Like batching.py, this module is shared by both."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.watching import DROP_REASONS, DropReason, Unwatched
from contracts import telemetry


class BatchMetrics:
    """Sizes and waits of batches and what was dropped, by kind of work, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.items: Histogram = telemetry.BATCH_ITEMS.histogram(registry)
        self.wait: Histogram = telemetry.BATCH_WAIT_SECONDS.histogram(registry)
        self.dropped: Counter = telemetry.QUEUE_DROPPED.counter(registry)


class CountedBatches(Unwatched):
    """Implements `app.watching.BatchWatch` for one kind of work, all of whose series begin at zero."""

    def __init__(self, metrics: BatchMetrics, kind: str) -> None:
        self._items = metrics.items.labels(kind)
        self._wait = metrics.wait.labels(kind)
        self._dropped = {reason: metrics.dropped.labels(kind, reason) for reason in DROP_REASONS}

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
        self._items.observe(items)
        self._wait.observe(oldest_wait_seconds)

    def item_dropped(self, reason: DropReason) -> None:
        self._dropped[reason].inc()
