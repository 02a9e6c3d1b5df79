"""A running gateway as the evaluation asks it: one question at a time, or many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from evaluation.sets import Question

T = TypeVar("T")
Headers = Mapping[str, str | None]
"""Of a request; None takes away what is sent by default."""

DEFAULT_HEADERS: Headers = {"Cache-Control": "no-store"}
"""An answer that was kept (PHAROS_CACHE_ANSWERS) says nothing of how the gateway answers now."""


class FindingFailed(Exception):
    """The gateway refused, or is not there; the message says what it said."""


class Gateway:
    """One route of a gateway, to be entered; `body` goes with each question."""

    def __init__(
        self,
        url: str,
        path: str,
        body: Mapping[str, Any],
        *,
        timeout_seconds: float,
        headers: Headers = DEFAULT_HEADERS,
    ) -> None:
        sent = {name: value for name, value in {**DEFAULT_HEADERS, **headers}.items() if value is not None}
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_seconds, trust_env=False, headers=sent)
        self._path = path
        self._body = dict(body)

    async def post(self, question: str) -> tuple[Any, float]:
        """The answer's JSON and the seconds it took. Raises FindingFailed."""
        started = time.monotonic()
        try:
            response = await self._http.post(self._path, json={"question": question, **self._body})
        except httpx.HTTPError as exc:
            raise FindingFailed(f"POST {exc.request.url}: {exc!r}") from exc
        seconds = time.monotonic() - started
        if response.status_code != httpx.codes.OK:
            raise FindingFailed(f"POST {response.url} for {question!r}: {response.status_code} {response.text[:500]}")
        return response.json(), seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def require_own(name: str, own: Container[str], found: Iterable[str]) -> None:
    """Raise FindingFailed unless one of the documents that any question `found` is one of the set's `own`."""
    if not any(document in own for document in found):
        raise FindingFailed(
            f"no question found a document of {name}: is it this set that the gateway holds, loaded with the columns "
            "that docs/evaluation.md names?"
        )


async def of_each(ask: Callable[[str], Awaitable[T]], questions: Sequence[Question], concurrent: int) -> dict[str, T]:
    """What `ask` says to each question, by its id, `concurrent` at a time. Raises what the first that fails raises."""
    slots = asyncio.Semaphore(concurrent)

    async def one(question: Question) -> T:
        async with slots:
            return await ask(question.text)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = {question.id: tasks.create_task(one(question)) for question in questions}
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return {id: task.result() for id, task in running.items()}
