"""HTTP/1.1 for httpx on httptools, the parser that uvicorn uses too: a quarter of the CPU per streamed chunk of httpx'
own transport, and the chunk is what a token costs the gateway (docs/decisions/0007-own-transport.md).

One pool for one origin. It speaks what the model service speaks: keep-alive, chunked and sized bodies, TLS; no
proxies, redirects are httpx' business.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools
import httpx

UNREAD_BYTES_MAX = 262_144
"""A connection whose reader is that far behind is not read from: TCP then slows the sender."""

BODY_TIMEOUT = "body_timeout"
"""Request extension: longest silence within the body, in seconds, where it differs from the read timeout."""


class HttptoolsTransport(httpx.AsyncBaseTransport):
    """At most `connections` at once; whoever waits longer than the pool timeout gets `httpx.PoolTimeout`."""

    def __init__(self, connections: int) -> None:
        self._free = asyncio.Semaphore(connections)
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions.get("timeout", {})
        body = await request.aread()
        read_seconds = timeouts.get("read")
        body_seconds = request.extensions.get(BODY_TIMEOUT, read_seconds)
        await self._permit(timeouts.get("pool"))
        connection: _Connection | None = None
        try:
            while True:
                kept = self._idle_connection()
                connection = kept or await self._connect(request, timeouts.get("connect"))
                try:
                    status, headers = await connection.exchange(_head(request) + body, read_seconds, body_seconds)
                    break
                except httpx.ReadError:
                    if kept is None or kept.heard:
                        raise
                    kept.close()  # by the server already, as we wrote: it has not begun to answer, so it is asked again
        except BaseException:
            self._release(connection)
            raise
        return httpx.Response(status, headers=headers, stream=_Body(connection, self._release))

    async def aclose(self) -> None:
        for connection in list(self._open):
            connection.close()

    async def _permit(self, seconds: float | None) -> None:
        if self._free.locked():
            try:
                async with asyncio.timeout(seconds):
                    await self._free.acquire()
            except TimeoutError:
                raise httpx.PoolTimeout("every connection is in use") from None
        else:
            await self._free.acquire()

    def _idle_connection(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        return None

    async def _connect(self, request: httpx.Request, seconds: float | None) -> _Connection:
        url = request.url
        tls = None
        if url.scheme == "https":
            tls = self._tls = self._tls or ssl.create_default_context()
        loop = asyncio.get_running_loop()
        name = request.extensions.get("sni_hostname") if tls else None
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._open.discard),
                    url.host,
                    url.port or (443 if tls else 80),
                    ssl=tls,
                    server_hostname=name,
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("no connection in time", request=request) from exc
        except OSError as exc:
            raise httpx.ConnectError(str(exc), request=request) from exc
        self._open.add(connection)
        return connection

    def _release(self, connection: _Connection | None) -> None:
        self._free.release()
        if connection is not None:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()


class _Connection(asyncio.Protocol):
    """One request and its answer at a time. What has been received waits here until it is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[_Connection], None]) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._silence_seconds: float | None = None
        self.lost = False
        self.heard = False
        """Whether anything has come since the request was sent."""
        self._begin()

    def _begin(self) -> None:
        # llhttp keeps no state that a second response could not use, but its callbacks bind to one parser.
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._started = False
        self._complete = False
        self._keep_alive = False
        self._until_close = False
        self._body = b""
        self._error: httpx.TransportError | None = None
        self._waiting_since = 0.0
        self.heard = False

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the answer has been read to its end and the server stays."""
        return self._complete and self._keep_alive and not self.lost and not self._body

    async def exchange(
        self, request: bytes, head_seconds: float | None, body_seconds: float | None
    ) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Send, and wait for status and headers, as long as `head_seconds`; within the body a silence may last
        `body_seconds`. Raises httpx.TransportError."""
        self._begin()
        if self.lost or self._transport is None:
            raise httpx.ReadError("the server closed the connection")
        self._expect_within(head_seconds)
        self._transport.write(request)
        while not self._started:
            await self._wait()
        self._expect_within(body_seconds)
        return self._parser.get_status_code(), self._headers

    async def read(self) -> bytes:
        """What has come of the body since the last read; empty at its end. Raises httpx.TransportError."""
        while not self._body:
            if self._complete:
                return b""
            await self._wait()
        body, self._body = self._body, b""
        if self._paused:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return body

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiting_since = self._loop.time()
        if self._timer is None and self._silence_seconds is not None:
            self._timer = self._loop.call_later(self._silence_seconds, self._on_timer)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_timer(self) -> None:
        # One timer for many waits: a timer for each chunk would cost more than the chunk.
        self._timer = None
        if self._waiter is None or self._silence_seconds is None:
            return
        left = self._waiting_since + self._silence_seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._on_timer)
        else:
            self._fail(httpx.ReadTimeout("no answer in time"))

    def _expect_within(self, seconds: float | None) -> None:
        self._stop_timer()  # it may be set for later
        self._silence_seconds = seconds

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._error is None and not self._complete:
            self._error = error
            self._wake()

    def close(self) -> None:
        """Drop the connection, whatever is under way."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self.close()  # nobody has asked for this: it would be taken for the answer to the next request
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {exc}"))
            self.close()
        if len(self._body) > UNREAD_BYTES_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._on_lost(self)
        if self._started and self._until_close and exc is None:
            self._complete = True
            self._wake()
        self._fail(httpx.ReadError("the server closed the connection"))

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._started = True
        sized = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        self._until_close = not sized
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._body += body
        self._wake()

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # afterwards the parser no longer knows
        self._wake()


class _Body(httpx.AsyncByteStream):
    def __init__(self, connection: _Connection, release: Callable[[_Connection], None]) -> None:
        self._connection: _Connection | None = connection
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        if connection is not None:
            while chunk := await connection.read():
                yield chunk

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)


def _head(request: httpx.Request) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"
