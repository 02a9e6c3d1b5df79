"""What the caches did and hold. Their series are there also where they are off, and say 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.caching.watching import CacheWatch, Evicted, LookedUp
from app.telemetry.live import gauge
from contracts import telemetry
from contracts.telemetry import CACHES, Cache


class Held(Protocol):
    """What a cache shows of what it holds."""

    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class CacheMetrics(Collector):
    """All of them, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lookups = telemetry.CACHE_LOOKUPS.counter(registry)
        self._evictions = telemetry.CACHE_EVICTIONS.counter(registry)
        self._held: dict[Cache, Held] = {}
        for cache in CACHES:  # rate() does not see the event that a series begins with
            for result in get_args(LookedUp):
                self._lookups.labels(cache, result)
            for why in get_args(Evicted):
                self._evictions.labels(cache, why)
        registry.register(self)

    def watch(self, cache: Cache) -> CacheWatch:
        """The hooks of one of them."""
        return _Watch(self, cache)

    def shows(self, cache: Cache, held: Held) -> None:
        """`held` is read at each scrape."""
        self._held[cache] = held

    def looked_up(self, cache: Cache, result: LookedUp) -> None:
        """Count a look-up."""
        self._lookups.labels(cache, result).inc()

    def evicted(self, cache: Cache, why: Evicted, entries: int) -> None:
        """Count entries that went."""
        self._evictions.labels(cache, why).inc(entries)

    def collect(self) -> Iterable[Metric]:
        """Read by the registry at each scrape, in another thread than the event loop's."""
        held = [(cache, self._held.get(cache)) for cache in CACHES]
        yield gauge(telemetry.CACHE_ENTRIES, [((cache,), 0 if it is None else it.entries) for cache, it in held])
        yield gauge(telemetry.CACHE_BYTES, [((cache,), 0 if it is None else it.bytes) for cache, it in held])


class _Watch:
    def __init__(self, metrics: CacheMetrics, cache: Cache) -> None:
        self._metrics = metrics
        self._cache = cache

    def looked_up(self, result: LookedUp) -> None:
        self._metrics.looked_up(self._cache, result)

    def evicted(self, why: Evicted, entries: int) -> None:
        self._metrics.evicted(self._cache, why, entries)
