"""Pure ASGI middleware: request ids, and a bound on bodies. (Starlette's BaseHTTPMiddleware would hide disconnects.)"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.problems import CLIENT_LEFT
from contracts.telemetry import REQUEST_ID_HEADER

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ID_HEADER = REQUEST_ID_HEADER.lower().encode()


class RequestIds:
    """Takes the caller's request id when it is sane, makes one otherwise, and echoes it on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _ID_HEADER), b"")
        request_id = given.decode() if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        scope["state"]["send_body"] = send  # for streams, see sse.py

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Refuses bodies of more than `max_bytes`, declared or not, before they fill the memory, and those that are not
    there after `seconds`: as soon as a route reads one it gets an HTTPException, the one kind that FastAPI lets through
    there. `elsewhere` names the paths that take another number of bytes."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, seconds: float, elsewhere: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self._app = app
        self._max = max_bytes
        self._seconds = seconds
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        limit = self._elsewhere.get(scope["path"], self._max)
        received = int(declared) if declared.isdigit() and int(declared) > limit else 0

        complete = False
        until = time.monotonic() + self._seconds

        async def bounded_receive() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the end of the connection, and that has no hurry
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"The body was not complete after {self._seconds:g} s; send it faster."
                ) from None
            if message["type"] == "http.disconnect":
                scope.setdefault("state", {})[CLIENT_LEFT] = True
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit and message["type"] == "http.request":
                raise HTTPException(413, f"The body is larger than {limit:,} bytes; send less.")
            return message

        await self._app(scope, bounded_receive, send)
