"""Asks a running gateway what it finds: POST /search."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from contracts.types import SearchMode
from evaluation.sets import Question

MODES: tuple[SearchMode, ...] = ("dense", "sparse", "hybrid")


@dataclass(frozen=True, slots=True)
class Found:
    """`documents` are the ids that ingestion gave them, one for each passage, best first. `similarity` is the highest
    cosine among them, None where nothing was found. `mode` is what was really done; `seconds` is how long the caller
    waited."""

    documents: tuple[str, ...]
    similarity: float | None
    mode: str
    seconds: float


class FindingFailed(Exception):
    """The gateway refused, or is not there; the message says what it said."""


class HttpFinder:
    """POST /search of a gateway for so many `passages`; `rerank` None is as the gateway is configured."""

    def __init__(self, url: str, mode: SearchMode, passages: int, *, rerank: bool | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=120, trust_env=False)
        self._body = {"mode": mode, "top_k": passages, "rerank": rerank, "stages": False}

    async def find(self, question: str) -> Found:
        """Raises FindingFailed."""
        started = time.monotonic()
        try:
            response = await self._http.post("/search", json={"question": question, **self._body})
        except httpx.HTTPError as exc:
            raise FindingFailed(f"POST {exc.request.url}: {exc!r}") from exc
        seconds = time.monotonic() - started
        if response.status_code != httpx.codes.OK:
            raise FindingFailed(f"POST {response.url} for {question!r}: {response.status_code} {response.text[:500]}")
        answer = response.json()
        hits = answer["hits"]
        return Found(
            tuple(hit["passage"]["document_id"] for hit in hits),
            max((hit["passage"]["score"] for hit in hits), default=None),
            answer["mode"],
            seconds,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


async def find_all(finder: HttpFinder, questions: Sequence[Question], concurrent: int) -> dict[str, Found]:
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
