"""Pure ASGI middleware: request ids, and a bound on bodies. (Starlette's BaseHTTPMiddleware would hide disconnects.)"""

from __future__ import annotations

import json
import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import wire
from contracts.problems import problem_body
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

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class _BodyTooLarge(Exception):
    pass


class BodyLimit:
    """Refuses bodies of more than `max_bytes`, declared or not, before they fill the memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        started = False

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max:
                raise _BodyTooLarge
            return message

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            length = next((v for n, v in scope["headers"] if n == b"content-length"), b"0")
            if length.isdigit() and int(length) > self._max:
                raise _BodyTooLarge
            await self._app(scope, bounded_receive, noting_send)
        except _BodyTooLarge:
            if not started:
                await self._refuse(scope, send)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        request_id = scope.get("state", {}).get("request_id", "")
        detail = f"The body is larger than {self._max:,} bytes; send less."
        body = problem_body(request_id, 413, "body_too_large", "The body is too large", detail)
        headers = [(b"content-type", wire.PROBLEM.encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})
