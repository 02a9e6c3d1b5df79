"""Server-sent events (WHATWG HTML, section 9.2): framing, pings, and an end when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.disconnect import ClientGone, unless_disconnected
from app.errors import PharosError, presentable
from contracts.problems import CLIENT_LEFT, PROBLEM

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No cache and no proxy (nginx' own switch) may hold events back."""

E = TypeVar("E")
_json = msgspec.json.Encoder()


def event(name: str, data: object) -> bytes:
    """One named event whose data is one line of JSON."""
    return b"event: " + name.encode() + b"\ndata: " + _json.encode(data) + b"\n\n"


class EventStream(Response, Generic[E]):
    """Sends `head`, then `encode(event)` for each event as it is made, and a comment every `ping_seconds` so that
    proxies keep a silent stream open. An exception of `events` becomes one last event, `encode_error(error)`.

    However the response ends, also when the client went away before it began, `events` is closed, which stops the work
    behind it.
    """

    def __init__(
        self,
        head: bytes,
        events: AsyncGenerator[E, None],
        encode: Callable[[E], bytes],
        encode_error: Callable[[PharosError], bytes],
        ping_seconds: float,
    ) -> None:
        self._head = head
        self._events = events
        self._encode = encode
        self._encode_error = encode_error
        self._ping_seconds = ping_seconds
        self.status_code = 200
        self.background = None
        self.body = b""
        self.raw_headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What middleware does happens at the start of a response. The tokens take the short way to the server, past the
        # wrappers around `send` that would only hand them on, at some microseconds a token.
        send_body = scope["state"].get("send_body", send)
        async with aclosing(self._events):
            try:
                await unless_disconnected(receive, self._send_all(scope, send, send_body))
            except ClientGone:
                scope["state"][CLIENT_LEFT] = True

    async def _send_all(self, scope: Scope, send: Send, send_body: Send) -> None:
        async def write(chunk: bytes, more: bool = True) -> None:
            await send_body({"type": "http.response.body", "body": chunk, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pinging = asyncio.ensure_future(self._ping(write))
        try:
            await write(self._head)
            encode = self._encode
            async for event in self._events:  # once per token
                await send_body({"type": "http.response.body", "body": encode(event), "more_body": True})
        except Exception as failure:  # the boundary to the client: the status is sent already, so it goes in the stream
            error = presentable(failure)
            scope["state"][PROBLEM] = (error.status, error.code)
            await write(self._encode_error(error))
        finally:
            pinging.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        # The server writes each message whole, so a ping never splits an event.
        while True:
            await asyncio.sleep(self._ping_seconds)
            await write(b": ping\n\n")
