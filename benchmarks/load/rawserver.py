"""`python -m benchmarks.load.rawserver PORT`: answers without doing anything, to see how fast the generator itself is.

POST /json answers a constant body; POST /sse?tokens=N&seconds=S streams N constant events, one every S seconds, all
streams on the same clock. No HTTP is parsed beyond the request line and the length of the body.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"answer":"ok"}'
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


_TOKEN = chunk(
    b'data: {"id":"chatcmpl-0000000000000000","object":"chat.completion.chunk","created":0,"model":"raw",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Clock:
    """Writes one event to every running stream each `seconds`, by a fixed schedule."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left: dict[asyncio.Transport, int] = {}
        self._due = 0.0

    def add(self, transport: asyncio.Transport, tokens: int) -> None:
        if not self._left:
            self._due = asyncio.get_running_loop().time() + self._seconds
            asyncio.get_running_loop().call_at(self._due, self._tick)
        self._left[transport] = tokens

    def _tick(self) -> None:
        for transport, left in list(self._left.items()):
            transport.write(_TOKEN if left > 1 else _TOKEN + _END)
            if left > 1:
                self._left[transport] = left - 1
            else:
                del self._left[transport]
        if self._left:
            self._due += self._seconds
            asyncio.get_running_loop().call_at(self._due, self._tick)


class RawServer(asyncio.Protocol):
    """One connection."""

    def __init__(self, clocks: dict[float, Clock]) -> None:
        self._clocks = clocks
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        self._received = b""
        target = urlsplit(head.split(b" ", 2)[1].decode())
        if target.path == "/json":
            self._transport.write(_JSON)
            return
        query = parse_qs(target.query)
        self._transport.write(_SSE)
        seconds = float(query["seconds"][0])
        self._clocks.setdefault(seconds, Clock(seconds)).add(self._transport, int(query["tokens"][0]))


async def serve(port: int) -> None:
    clocks: dict[float, Clock] = {}
    server = await asyncio.get_running_loop().create_server(lambda: RawServer(clocks), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
