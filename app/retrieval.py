"""Question to passages: encode, search, keep what is relevant. Both calls are batched across requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.batching import Batcher, BatchLimits
from contracts.ports import Encoder, VectorStore
from contracts.types import Passage


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages best first, the similarity of the best hit before the relevance cut, and the seconds of each step."""

    passages: tuple[Passage, ...]
    best_score: float | None
    queue_seconds: float
    encode_seconds: float
    search_seconds: float


@dataclass(frozen=True, slots=True)
class _Query:
    vector: NDArray[np.float32]
    topics: tuple[str, ...]
    limit: int


class Retriever:
    """Searches that arrive together travel together: texts as one /encode, queries on the same topics as one search.

    `min_score` is the cosine similarity below which a passage does not count as relevant.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: VectorStore,
        *,
        encode_limits: BatchLimits,
        search_limits: BatchLimits,
        min_score: float,
        on_batch: Callable[[str, int, float], None] = lambda _kind, _items, _wait: None,
    ) -> None:
        self._encoder = encoder
        self._store = store
        self._min_score = min_score
        self._exit = AsyncExitStack()
        self._encoding: Batcher[str, NDArray[np.float32]] = Batcher(
            self._encode, encode_limits, on_batch=lambda items, wait: on_batch("encode", items, wait)
        )
        self._searching: Batcher[_Query, list[Passage]] = Batcher(
            self._search,
            search_limits,
            group=lambda query: query.topics,
            on_batch=lambda items, wait: on_batch("search", items, wait),
        )

    async def retrieve(self, question: str, topics: Sequence[str], limit: int) -> Retrieved:
        """The `limit` passages nearest to `question` inside `topics` (none: everywhere) that are relevant."""
        encoded = await self._encoding.submit(question)
        # Sorted, so that the same set of topics is the same group however it was written.
        query = _Query(encoded.value, tuple(sorted(set(topics))), limit)
        found = await self._searching.submit(query)
        passages = found.value
        return Retrieved(
            passages=tuple(passage for passage in passages if passage.score >= self._min_score),
            best_score=passages[0].score if passages else None,
            queue_seconds=encoded.queued_seconds + found.queued_seconds,
            encode_seconds=encoded.served_seconds,
            search_seconds=found.served_seconds,
        )

    async def _encode(self, texts: Sequence[str]) -> Sequence[NDArray[np.float32]]:
        return list((await self._encoder.encode(texts)).vectors)

    async def _search(self, queries: Sequence[_Query]) -> Sequence[list[Passage]]:
        limit = max(query.limit for query in queries)
        vectors = np.stack([query.vector for query in queries])
        found = await self._store.search(vectors, queries[0].topics, limit)
        return [passages[: query.limit] for passages, query in zip(found, queries, strict=True)]

    async def __aenter__(self) -> Self:
        await self._exit.enter_async_context(self._searching)
        await self._exit.enter_async_context(self._encoding)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()
