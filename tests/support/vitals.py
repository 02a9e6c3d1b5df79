"""What a service's process holds: where a leak shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from contracts import telemetry
from tests.support import asking
from tests.support.processes import Service
from tests.support.stack import held

SETTLE_SECONDS = 60.0
"""uvicorn closes idle connections after 5 s, at both ends of the gateway; the rest is for a busy machine."""
POOLED = 16
"""Connections to model services and Milvus that may be kept for the next request."""
THREADS_SLACK = 12
"""Thread pools that grow on demand and never shrink: the loop's executor (6 on two cores), uvloop's (4)."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at a process. `series` are the names and labels in /metrics."""

    fds: int
    threads: int
    rss_mib: float
    tasks: int
    series: frozenset[str] = field(repr=False)


def vitals(service: Service) -> Vitals:
    """Of a service that runs."""
    assert service.process is not None
    proc = Path("/proc") / str(service.process.pid)
    with asking.client(service.url) as http:
        samples = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        # Counted while this client's own connection is open, so that every look has the same one too many.
        fds = sum(1 for _ in (proc / "fd").iterdir())
    series = frozenset(line.rsplit(" ", 1)[0] for line in samples)
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    tasks = next(float(line.split()[1]) for line in samples if line.startswith(telemetry.ASYNCIO_TASKS.name + " "))
    return Vitals(fds, int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024, int(tasks), series)


@asynccontextmanager
async def no_leak(*services: Service, rss_mib: float = 30) -> AsyncIterator[None]:
    """What happens inside leaves each service with as many tasks as before, at most some connections to be used again,
    and hardly more memory; and without a traceback in its log."""
    before = [vitals(service) for service in services]
    written = [service.log.stat().st_size for service in services]
    yield
    for service, was, start in zip(services, before, written, strict=True):
        now = await settled(service, was, pooled=POOLED)
        assert now.fds <= was.fds + POOLED, f"{was} -> {now}"
        assert now.tasks <= was.tasks, f"{was} -> {now}"
        assert now.rss_mib <= was.rss_mib + rss_mib, f"{was} -> {now}"
        assert now.threads <= was.threads + THREADS_SLACK, f"{was} -> {now}"
        output = service.log.read_bytes()[start:].decode(errors="replace")
        assert "Traceback" not in output, output[-4000:]
        assert "never retrieved" not in output, output[-4000:]


async def settled(service: Service, was: Vitals, pooled: int = 0) -> Vitals:
    """Its vitals as soon as it holds no more than it did, but for `pooled` connections, or after `SETTLE_SECONDS`."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        now = await asyncio.to_thread(vitals, service)
        if (now.fds <= was.fds + pooled and now.tasks <= was.tasks) or time.monotonic() > until:
            return now
        await asyncio.sleep(0.2)


async def eventually(
    condition: Callable[[], bool], seconds: float = 30, otherwise: Callable[[], object] = lambda: "it did not happen"
) -> None:
    """Wait until `condition` holds, without holding up the test's own servers and clients."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, await asyncio.to_thread(otherwise)
        await asyncio.sleep(0.05)


async def nothing_held(*replicas: Service, seconds: float = 30) -> None:
    """Every slot and every queue of the model services is empty, within `seconds`. What holds them must last longer."""
    await eventually(lambda: not any(map(held, replicas)), seconds, lambda: [held(replica) for replica in replicas])
