"""Server-sent events (WHATWG HTML, section 9.2): framing, pings, and an end when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.routes.disconnect import ClientGone, unless_disconnected

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No cache and no proxy (nginx' own switch) may hold events back."""

_json = msgspec.json.Encoder()


def event(name: str, data: object) -> bytes:
    """One named event whose data is one line of JSON."""
    return b"event: " + name.encode() + b"\ndata: " + _json.encode(data) + b"\n\n"


class EventStream(Response):
    """Sends each chunk as it is made, and a comment every `ping_seconds` so that proxies keep a silent stream open.

    A client that goes away closes `chunks`, in which the work behind it is stopped.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], ping_seconds: float) -> None:
        self._chunks = chunks
        self._ping_seconds = ping_seconds
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"content-type": MEDIA_TYPE, **HEADERS})

    def init_headers(self, headers: dict[str, str] | None = None) -> None:  # type: ignore[override]
        """As Starlette's, but without the content-length of a body that is not known yet."""
        self.raw_headers = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with suppress(ClientGone):
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pinging = asyncio.ensure_future(self._ping(send))
        try:
            async with aclosing(self._chunks):
                async for chunk in self._chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            pinging.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _ping(self, send: Send) -> None:
        # The server writes each message whole, so a ping never splits an event.
        while True:
            await asyncio.sleep(self._ping_seconds)
            await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
