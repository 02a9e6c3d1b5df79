"""Runs one load and sums up what came back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from benchmarks.load import sse
from benchmarks.load.connection import Connection, Exchange
from benchmarks.load.percentiles import spread
from benchmarks.load.schedule import due_times
from benchmarks.load.types import Closed, Load, Open, Outcome

_EARLY_SECONDS = 0.0005
"""uvloop's timers count whole milliseconds, so half of one is as near as a request can leave."""
FIRST_BODY_CHARS = 20_000
READY_CONNECTIONS = 256
"""Connections made before an open load starts; more are made when all of them wait for an answer."""


class Generator:
    """One load, once. Every answer is kept as it came and read after the last one."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests: Iterator[bytes] = itertools.cycle([_request(load, body) for body in load.bodies])
        self._exchanges: list[Exchange] = []
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._all_started = False
        self._finished = asyncio.Event()
        self._more: Callable[[], bool] = lambda: False
        """Whether a connection that has its answer sends another request at once."""

    async def run(self) -> Outcome:
        """Raises OSError when nobody listens."""
        arrivals = self._load.arrivals
        gc.disable()  # a collection in the middle would look like the server's latency
        watching = asyncio.ensure_future(self._drop_late_ones())
        before = resource.getrusage(resource.RUSAGE_SELF)
        if isinstance(arrivals, Closed):
            await self._closed(arrivals)
        else:
            await self._open(arrivals)
        self._all_started = True
        self._check_finished()
        await self._finished.wait()
        after = resource.getrusage(resource.RUSAGE_SELF)
        watching.cancel()
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return summary(self._exchanges, cpu, stream=self._load.stream)

    async def _closed(self, arrivals: Closed) -> None:
        connections = await self._connect(arrivals.at_once)
        end = time.perf_counter() + (arrivals.seconds or math.inf)
        most = arrivals.requests or math.inf
        self._more = lambda: len(self._exchanges) < most and time.perf_counter() < end
        for connection in connections:
            if self._more():
                self._start(connection, time.perf_counter())

    async def _open(self, arrivals: Open) -> None:
        times = due_times(arrivals)
        # Connected before the clock runs: a user's handshake is no part of what is measured.
        self._idle = await self._connect(min(len(times), READY_CONNECTIONS))
        start = time.perf_counter()
        for after in times:
            due = start + after
            ahead = due - time.perf_counter()
            if ahead > _EARLY_SECONDS:
                await asyncio.sleep(ahead)
            self._start(self._idle.pop() if self._idle else None, due)

    async def _connect(self, count: int) -> list[Connection]:
        url = urlsplit(self._load.url)
        loop = asyncio.get_running_loop()

        def protocol() -> Connection:
            return Connection(stream=self._load.stream, on_end=self._ended)

        # One after the other, so that no listen queue overflows.
        return [
            (await loop.create_connection(protocol, str(url.hostname), int(url.port or 80)))[1] for _ in range(count)
        ]

    def _start(self, connection: Connection | None, due: float) -> None:
        """Send the next request; over a new connection when there is none or the server has closed it."""
        exchange = Exchange(due)
        self._exchanges.append(exchange)
        if connection is None or connection.lost:
            task = asyncio.ensure_future(self._connect_and_send(exchange))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            task.add_done_callback(lambda _: self._check_finished())
        else:
            self._busy.add(connection)
            connection.send(exchange, next(self._requests))

    async def _connect_and_send(self, exchange: Exchange) -> None:
        exchange.sent = time.perf_counter()
        try:
            (connection,) = await self._connect(1)
        except OSError:
            exchange.ended = time.perf_counter()
        else:
            self._busy.add(connection)
            connection.send(exchange, next(self._requests))

    def _ended(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if self._more():
            self._start(connection, time.perf_counter())
        elif not connection.lost:
            self._idle.append(connection)
        self._check_finished()

    def _check_finished(self) -> None:
        if self._all_started and not self._busy and not self._connecting:
            self._finished.set()

    async def _drop_late_ones(self) -> None:
        """A request that gets no answer in time is an error, and its connection is gone."""
        while True:
            await asyncio.sleep(1)
            latest = time.perf_counter() - self._load.timeout_seconds
            for connection in [c for c in self._busy if c.exchange is not None and c.exchange.sent < latest]:
                connection.abort()


def summary(exchanges: list[Exchange], cpu_seconds: float, *, stream: bool) -> Outcome:
    """What the exchanges amount to."""
    latency: dict[str, list[float]] = defaultdict(list)
    first_token: list[float] = []
    gaps: list[float] = []
    tokens = chunks = 0
    for exchange in exchanges:
        began = min(exchange.due, exchange.sent)
        outcome = str(exchange.status) if exchange.status else "error"
        if stream and exchange.status == 200:
            reading = sse.read(exchange.parts, exchange.times)
            tokens += reading.tokens
            chunks += len(reading.token_times)
            if reading.token_times:
                first_token.append(reading.token_times[0] - began)
            gaps += [later - earlier for earlier, later in itertools.pairwise(reading.token_times)]
            if not reading.ended:
                outcome = "error"
        latency[outcome].append(exchange.ended - began)
    return Outcome(
        wall_seconds=max(e.ended for e in exchanges) - min(e.sent for e in exchanges),
        requests=len(exchanges),
        latency={outcome: spread(seconds) for outcome, seconds in sorted(latency.items())},
        first_token=spread(first_token),
        gap=spread(gaps),
        tokens=tokens,
        chunks=chunks,
        late=spread(max(0.0, e.sent - e.due) for e in exchanges),
        cpu_seconds=cpu_seconds,
        first_body=b"".join(exchanges[0].parts).decode(errors="replace")[:FIRST_BODY_CHARS],
    )


def _request(load: Load, body: str) -> bytes:
    url = urlsplit(load.url)
    target = f"{url.path}?{url.query}" if url.query else url.path
    content = body.encode()
    accept = "text/event-stream" if load.stream else "application/json"
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
