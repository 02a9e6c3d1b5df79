"""One HTTP/1.1 connection that carries one exchange after the other; made to cost little per request and per chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools


class Exchange:
    """One request and what is noted of its answer. Times are `time.perf_counter()` instants."""

    __slots__ = ("due", "ended", "parts", "sent", "status", "times")

    def __init__(self, due: float) -> None:
        self.due = due
        self.sent = 0.0
        self.ended = 0.0
        self.status = 0
        """0: no answer."""
        self.parts: list[bytes] = []
        self.times: list[float] = []
        """When each part came; of a stream only."""


class Connection(asyncio.Protocol):
    """`on_end(connection)` is called when an answer is complete or the connection is lost on the way."""

    def __init__(self, *, stream: bool, on_end: Callable[[Connection], None]) -> None:
        self._stream = stream
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._now = 0.0
        self._keep_alive = True
        self.exchange: Exchange | None = None
        self.lost = False

    def send(self, exchange: Exchange, request: bytes) -> None:
        assert self._transport is not None
        self.exchange = exchange
        exchange.sent = time.perf_counter()
        self._transport.write(request)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.status = 0
            exchange.ended = time.perf_counter()
            self._on_end(self)

    # httptools

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.parts.append(body)
            if self._stream:
                exchange.times.append(self._now)

    def on_headers_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.status = self._parser.get_status_code()
            exchange.ended = self._now
            if not self._keep_alive:
                self.lost = True
                self.abort()
            self._on_end(self)
