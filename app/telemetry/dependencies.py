"""Whether what the gateway depends on answers, asked all the time: a quiet night must not hide that Milvus is down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge

from contracts import telemetry

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[bool]]

CHECK_SECONDS = 5.0
"""As often as Prometheus asks us."""


@asynccontextmanager
async def watched_dependencies(
    registry: CollectorRegistry,
    checks: Mapping[str, Check],
    every_seconds: float = CHECK_SECONDS,
) -> AsyncGenerator[None, None]:
    """While entered, `pharos_dependency_up` says of each of `checks` what it last answered."""
    up = telemetry.DEPENDENCY_UP.gauge(registry)
    watching = asyncio.ensure_future(_watch(up, checks, every_seconds))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        registry.unregister(up)


async def _watch(up: Gauge, checks: Mapping[str, Check], every_seconds: float) -> None:
    while True:
        for name, check in checks.items():
            try:
                answers = await check()
            except Exception:  # the boundary to a client's library: what fails in no known way does not answer either
                log.warning("the check of %s has failed", name, exc_info=True)
                answers = False
            up.labels(name).set(answers)
        await asyncio.sleep(every_seconds)
