"""Asks a running gateway: POST /ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from evaluation.answer_figures import Reply
from evaluation.finding import FindingFailed
from evaluation.sets import Question


class HttpAsker:
    """POST /ask of a gateway; `body` is what goes with each question (top_k, max_tokens, mode, …)."""

    def __init__(self, url: str, body: Mapping[str, Any]) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=600, trust_env=False)
        self._body = dict(body)

    async def ask(self, question: str) -> Reply:
        """Raises FindingFailed."""
        started = time.monotonic()
        try:
            response = await self._http.post(
                "/ask", json={"question": question, **self._body}, headers={"X-Request-Timeout": "600"}
            )
        except httpx.HTTPError as exc:
            raise FindingFailed(f"POST {exc.request.url}: {exc!r}") from exc
        seconds = time.monotonic() - started
        if response.status_code != httpx.codes.OK:
            raise FindingFailed(f"POST {response.url} for {question!r}: {response.status_code} {response.text[:500]}")
        answer = response.json()
        return Reply(answer["answer"], tuple(source["text"] for source in answer["sources"]), seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


async def ask_all(asker: HttpAsker, questions: Sequence[Question], concurrent: int) -> dict[str, Reply]:
    """The reply to each question, `concurrent` at a time. Raises FindingFailed at the first that fails."""
    slots = asyncio.Semaphore(concurrent)

    async def one(question: Question) -> Reply:
        async with slots:
            return await asker.ask(question.text)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = {question.id: tasks.create_task(one(question)) for question in questions}
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return {id: task.result() for id, task in running.items()}
