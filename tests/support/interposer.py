"""Something that stands between the gateway and a model service, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caught:
    """A request that is not passed on. The connection is closed when its fault returns."""

    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def request_ids(self) -> list[str]:
        """The prompts of a /generate."""
        return [prompt["request_id"] for prompt in json.loads(self.body)["prompts"]]


Fault = Callable[[Caught], Awaitable[None]]


class Interposer:
    """Listens on `port` and passes everything on to `target_port`, but for the paths in `faults`.

    `requests` are the instants and paths of all requests.
    """

    def __init__(self, port: int, target_port: int) -> None:
        self._port = port
        self._target_port = target_port
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[float, str]] = []

    def work_since(self, instant: float) -> int:
        """Requests other than /readyz."""
        return sum(at >= instant and path != "/readyz" for at, path in self.requests)

    def count(self, path: str) -> int:
        """Requests to `path` until now."""
        return sum(requested == path for _, requested in self.requests)

    def misbehave(self, fault: Fault, *paths: str) -> None:
        """From now on."""
        self.faults = dict.fromkeys(paths, fault)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            await self._relay(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # one of the two has gone
        finally:
            del self._serving[task]
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, target = await asyncio.open_connection("127.0.0.1", self._target_port)
        back = asyncio.create_task(_copy(answers, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                path = head.split(b" ", 2)[1].decode()
                self.requests.append((time.monotonic(), path))
                fault = self.faults.get(path)
                if fault is not None:
                    await fault(Caught(body, reader, writer))
                    return
                target.write(head + body)
        finally:
            back.cancel()
            target.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def silence(caught: Caught) -> None:
    """Take the request and never say anything."""
    await caught.reader.read()


def says(answer: bytes) -> Fault:
    """Answer with these bytes, and close the connection."""

    async def fault(caught: Caught) -> None:
        caught.writer.write(answer)
        await caught.writer.drain()

    return fault


def body(content: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer with this body."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: " + str(len(content)).encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


async def breaks_off(caught: Caught) -> None:
    """A good first frame and a token for each prompt, half a frame, and the end."""
    deltas = [{"request_id": request_id, "text": "half", "tokens": 1} for request_id in caught.request_ids]
    lines = b'{"deltas":[]}\n' + json.dumps({"deltas": deltas}).encode() + b'\n{"deltas":[{"request_id":"'
    caught.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    caught.writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
    await caught.writer.drain()
