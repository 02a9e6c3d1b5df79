"""`python -m benchmarks.upstream PORT FIRST TOKEN`: an OpenAI-compatible server that sends words on a schedule.

FIRST and TOKEN are the seconds to the first token and between tokens. It is what LiteLLM and vllm-router relay, and
measured by itself it is the floor of any relay: uvicorn and one `send` a token, no more. All streams share one clock,
so that a tick costs one timer however many they are.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import Any

import uvicorn

MODEL = "simulated"
_HEADERS_JSON = [(b"content-type", b"application/json")]
_HEADERS_SSE = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Clock:
    """Wakes everyone who waits at each multiple of `seconds`; what a tick has to do does not delay the next."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tick: asyncio.Future[None] | None = None

    async def tick(self) -> None:
        """Wait for the next one."""
        if self._tick is None:
            loop = asyncio.get_running_loop()
            self._tick = loop.create_future()
            # Half a tick on, since a timer may fire a little before its time.
            ticks = math.floor(loop.time() / self._seconds + 0.5) + 1
            loop.call_at(ticks * self._seconds, self._wake)
        await self._tick

    def _wake(self) -> None:
        ticked, self._tick = self._tick, None
        if ticked is not None:
            ticked.set_result(None)


class Upstream:
    """The ASGI application."""

    def __init__(self, first_token_seconds: float, token_seconds: float) -> None:
        self._first_token_seconds = first_token_seconds
        self._token_seconds = token_seconds
        self._clock = Clock(token_seconds)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        if scope["path"] != "/v1/chat/completions":
            answer = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}]}
            await _json(send, answer)
            return
        request = json.loads(body)
        tokens = int(request.get("max_tokens") or 64)
        if request.get("stream"):
            await self._stream(send, tokens, usage=bool((request.get("stream_options") or {}).get("include_usage")))
        else:
            await asyncio.sleep(self._first_token_seconds + self._token_seconds * (tokens - 1))
            await _json(send, _completion(tokens))

    async def _stream(self, send: Any, tokens: int, *, usage: bool) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS_SSE})
        await asyncio.sleep(self._first_token_seconds)
        for i in range(tokens):
            if i and self._token_seconds:
                await self._clock.tick()
            await send({"type": "http.response.body", "body": _chunk(f"w{i} ", None), "more_body": True})
        end = _chunk("", "stop")
        if usage:
            counted = {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8}
            end += b"data: %s\n\n" % json.dumps({**_HEAD, "choices": [], "usage": counted}).encode()
        await send({"type": "http.response.body", "body": end + b"data: [DONE]\n\n", "more_body": False})


_HEAD = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_TOKEN = json.dumps({**_HEAD, "choices": [{"index": 0, "delta": {"content": "WORD"}, "finish_reason": None}]})
_BEFORE, _AFTER = (b"data: " + _TOKEN.encode() + b"\n\n").split(b"WORD")


def _chunk(text: str, finish_reason: str | None) -> bytes:
    if finish_reason is None:
        return _BEFORE + text.encode() + _AFTER
    choices = [{"index": 0, "delta": {}, "finish_reason": finish_reason}]
    end: str = json.dumps({**_HEAD, "choices": choices})
    return f"data: {end}\n\n".encode()


def _completion(tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(f"w{i}" for i in range(tokens))}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8},
    }


async def _body(receive: Any) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _json(send: Any, answer: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS_JSON})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def main() -> None:
    port, first_token_seconds, token_seconds = sys.argv[1:]
    uvicorn.run(
        Upstream(float(first_token_seconds), float(token_seconds)),
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
        lifespan="off",
        backlog=1024,
    )


if __name__ == "__main__":
    main()
