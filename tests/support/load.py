"""Many clients at once, of the kinds that Pharos has."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.asking import KEPT_SECONDS
from tests.support.stack import QUESTION


def many(url: str) -> httpx.AsyncClient:
    """A client of any number of connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_SECONDS)
    return httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=limits)


@dataclass(slots=True)
class Answer:
    """What has come so far. `names` are the events' names; a chunk of /v1 is a "token", its [DONE] is "done"."""

    started: float = field(default_factory=time.monotonic)
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    names: list[str] = field(default_factory=list)
    text: str = ""
    body: Any = None
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Events with tokens; a chat's first and last chunk count too."""
        return self.names.count("token")

    @property
    def words(self) -> int:
        """Of a streamed answer: the tokens of the simulated engine. Where the gateway reads late, two of them come in
        one event."""
        return len(self.text.split())

    @property
    def complete(self) -> bool:
        """An answer that is whole, with nothing after its end."""
        ends = self.names.count("done") + self.names.count("error")
        return self.status == 200 and (not self.names or (self.names[-1] == "done" and ends == 1))

    @property
    def broken_off(self) -> bool:
        """A stream that ended with exactly one error, after a token."""
        ends = self.names.count("done") + self.names.count("error")
        return self.status == 200 and self.tokens > 0 and self.names[-1] == "error" and ends == 1


@dataclass(slots=True)
class Asking:
    """A request on its way."""

    answer: Answer
    task: asyncio.Task[Answer]


def ask(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: object) -> Asking:
    """POST /ask."""
    return post(http, "/ask", {"question": QUESTION, **body}, headers)


def chat(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: object) -> Asking:
    """POST /v1/chat/completions, to the LLM alone unless `body` names another model."""
    messages = [{"role": "user", "content": QUESTION}]
    return post(http, "/v1/chat/completions", {"model": "simulated", "messages": messages, **body}, headers)


def ask_documents(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: object) -> Asking:
    """POST /v1/chat/completions, to be answered from the documents."""
    return chat(http, headers, model="documents", **body)


def embed(http: httpx.AsyncClient, headers: dict[str, str] | None = None, texts: Sequence[str] = ("oil",)) -> Asking:
    """POST /v1/embeddings."""
    return post(http, "/v1/embeddings", {"model": "hash", "input": list(texts)}, headers)


def post(http: httpx.AsyncClient, path: str, body: dict[str, object], headers: dict[str, str] | None = None) -> Asking:
    """Send it now; its answer fills as it comes."""
    return _sent(http, http.build_request("POST", path, json=body, headers=headers))


def get(http: httpx.AsyncClient, path: str) -> Asking:
    """Likewise."""
    return _sent(http, http.build_request("GET", path))


def _sent(http: httpx.AsyncClient, request: httpx.Request) -> Asking:
    answer = Answer()
    return Asking(answer, asyncio.create_task(_send(http, request, answer)))


async def _send(http: httpx.AsyncClient, request: httpx.Request, answer: Answer) -> Answer:
    response = await http.send(request, stream=True)
    async with aclosing(response):
        answer.status, answer.headers = response.status_code, response.headers
        if "event-stream" in response.headers.get("content-type", ""):
            await _events(response, answer)
        else:
            answer.body = json.loads(await response.aread())
    answer.seconds = time.monotonic() - answer.started
    return answer


async def _events(response: httpx.Response, answer: Answer) -> None:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line == "data: [DONE]":
            answer.names.append("done")
        elif line.startswith("data: "):
            data = json.loads(line.removeprefix("data: "))
            answer.names.append(name or ("error" if "error" in data else "token"))
            if name == "token":
                answer.text += data["text"]
            elif answer.names[-1] == "token" and data["choices"]:
                answer.text += data["choices"][0]["delta"].get("content") or ""
            elif answer.names[-1] in ("error", "done"):
                answer.body = data


async def answers(askings: Sequence[Asking]) -> list[Answer]:
    """All of them, when they have ended. Raises httpx.TransportError for one without an answer."""
    return list(await asyncio.gather(*(asking.task for asking in askings)))


async def leave(askings: Sequence[Asking]) -> None:
    """Close their connections, wherever they are."""
    for asking in askings:
        asking.task.cancel()
    await asyncio.gather(*(asking.task for asking in askings), return_exceptions=True)
