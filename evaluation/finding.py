"""Asks a running gateway what it finds: POST /search."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import httpx

from evaluation.sets import Question

Mode = Literal["hybrid", "dense", "sparse"]
MODES: tuple[Mode, ...] = ("dense", "sparse", "hybrid")


@dataclass(frozen=True, slots=True)
class Found:
    """`documents` are the ids that ingestion gave them, one for each passage, best first. `seconds` is the time of the
    call as the caller saw it; `mode` is what was really done."""

    documents: tuple[str, ...]
    scores: tuple[float, ...]
    mode: str
    seconds: float


class Finder(Protocol):
    """Finds passages."""

    async def find(self, question: str) -> Found: ...


class FindingFailed(Exception):
    """The gateway refused, or is not there; the message says what it said."""


class HttpFinder:
    """POST /search of a gateway. `passages` is how many are asked for."""

    def __init__(
        self, url: str, mode: Mode, passages: int, *, rerank: bool | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=120, trust_env=False)
        self._body: dict[str, Any] = {"mode": mode, "top_k": passages, "rerank": rerank, **(extra or {})}

    async def find(self, question: str) -> Found:
        """Raises FindingFailed."""
        started = time.monotonic()
        try:
            response = await self._http.post("/search", json={"question": question, **self._body})
        except httpx.HTTPError as exc:
            raise FindingFailed(f"POST {self._http.base_url}search: {exc!r}") from exc
        seconds = time.monotonic() - started
        if response.status_code != httpx.codes.OK:
            raise FindingFailed(f"POST {response.url} for {question!r}: {response.status_code} {response.text[:500]}")
        answer = response.json()
        hits = answer["hits"]
        return Found(
            tuple(hit["passage"]["document_id"] for hit in hits),
            tuple(hit["score"] for hit in hits),
            answer["mode"],
            seconds,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


async def find_all(finder: Finder, questions: Sequence[Question], concurrent: int) -> dict[str, Found]:
    """What each question finds, `concurrent` of them at a time. Raises FindingFailed at the first that fails."""
    slots = asyncio.Semaphore(concurrent)

    async def one(question: Question) -> Found:
        async with slots:
            return await finder.find(question.text)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = {question.id: tasks.create_task(one(question)) for question in questions}
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return {id: task.result() for id, task in running.items()}
