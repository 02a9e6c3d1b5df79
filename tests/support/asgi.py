"""One request to an ASGI application in this process, without a server or a client between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope


@dataclass(frozen=True)
class Answer:
    """What the application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def scope(method: str, path: str, headers: Mapping[str, str]) -> Scope:
    """As a server would make it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }


async def ask(app: ASGIApp, method: str, path: str, body: object = None, **headers: str) -> Answer:
    """The answer to one request whose client stays. Underscores in the names of headers stand for hyphens."""
    requests: list[Message] = [{"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}]
    sent: list[Message] = []

    async def receive() -> Message:
        if requests:
            return requests.pop()
        return await asyncio.get_running_loop().create_future()  # the client stays

    async def send(message: Message) -> None:
        sent.append(message)

    named = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
    await app(scope(method, path, named), receive, send)
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )
