"""The event loop as operators see it. Both services use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from contracts import telemetry


@contextmanager
def task_gauge(registry: CollectorRegistry) -> Iterator[None]:
    """While entered, `registry` counts the running loop's asyncio tasks: work that nobody waits for shows there first.

    Read when scraped, which may be in another thread.
    """
    loop = asyncio.get_running_loop()
    gauge = telemetry.ASYNCIO_TASKS.gauge(registry)
    gauge.set_function(lambda: len(asyncio.all_tasks(loop)))
    try:
        yield
    finally:
        registry.unregister(gauge)
