"""What tells whether a process is well: its event loop, garbage collection, memory, files and version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from contracts import telemetry
from observability.build import build_info
from observability.garbage import GcPauses

LAG_SECONDS = 0.5
"""How often the event loop's lag is measured."""


@contextmanager
def vitals(registry: CollectorRegistry, service: str) -> Iterator[None]:
    """While entered, `registry` has the vital signs of this process, a `service` of contracts/telemetry.py, and of the
    running event loop. Raises RuntimeError where none runs."""
    with process_vitals(registry, service), _loop_vitals(registry):
        yield


@contextmanager
def process_vitals(registry: CollectorRegistry, service: str) -> Iterator[None]:
    """The part of `vitals` that needs no event loop: build, garbage collection, and prometheus_client's own collectors,
    unless `registry` has them already, as the default registry does."""
    with build_info(registry, service), ExitStack() as stack:
        pauses = GcPauses()
        pauses.start()
        stack.callback(pauses.stop)
        there = {family.name for family in registry.collect()}
        usual = (
            ProcessCollector(registry=None),
            PlatformCollector(registry=None),
            GCCollector(CollectorRegistry()),  # it takes no None; this registry is nobody's
        )
        missing = [each for each in usual if there.isdisjoint(family.name for family in each.collect())]
        for collector in (pauses, *missing):
            stack.enter_context(_registered(collector, registry))
        yield


@contextmanager
def _loop_vitals(registry: CollectorRegistry) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    tasks = telemetry.ASYNCIO_TASKS.gauge(registry)
    # Work that nobody waits for shows here first. Read in the thread that renders a scrape, which all_tasks allows.
    tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    lateness = telemetry.EVENT_LOOP_LAG.histogram(registry)
    lag = Lag(loop, lateness)
    try:
        yield
    finally:
        lag.stop()
        registry.unregister(lateness)
        registry.unregister(tasks)


class Lag:
    """Sets a timer again and again until `stop`, and notes how late it comes: as late as whatever else is due then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lateness: Histogram) -> None:
        self._loop = loop
        self._lateness = lateness
        self._set()

    def _set(self) -> None:
        # Not the loop's own clock: uvloop's stands still during a turn and counts in whole milliseconds.
        self._due = time.perf_counter() + LAG_SECONDS
        self._timer = self._loop.call_later(LAG_SECONDS, self._came)

    def _came(self) -> None:
        self._lateness.observe(max(0.0, time.perf_counter() - self._due))
        self._set()

    def stop(self) -> None:
        """Note no more."""
        self._timer.cancel()


@contextmanager
def _registered(collector: Collector, registry: CollectorRegistry) -> Iterator[None]:
    registry.register(collector)
    try:
        yield
    finally:
        registry.unregister(collector)
