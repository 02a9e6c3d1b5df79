"""Question to passages: encode, search, keep what is relevant. Both calls are batched across requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import SpanContext

from app.batching import Batcher, BatchLimits
from app.merging import MergingEncoder
from app.watching import UNWATCHED, BatchWatch
from contracts.ports import VectorStore
from contracts.types import Passage
from observability.trace_context import current_context, on_behalf_of


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
    caller: SpanContext | None = field(default_factory=current_context)


class RetrieveUseCase(Protocol):
    """What finds passages: `Retriever`, or a wrapper around it."""

    async def retrieve(
        self, question: str, topics: Sequence[str], limit: int, deadline: float | None = None
    ) -> Retrieved: ...


class Retriever:
    """Searches that arrive together travel together: queries on the same topics are one call.

    `min_score` is the cosine similarity below which a passage does not count as relevant.
    """

    def __init__(
        self,
        encoder: MergingEncoder,
        store: VectorStore,
        *,
        search_limits: BatchLimits,
        min_score: float,
        watch: BatchWatch = UNWATCHED,
    ) -> None:
        self._encoder = encoder
        self._store = store
        self._min_score = min_score
        self.searching: Batcher[_Query, list[Passage]] = Batcher(
            self._search,
            search_limits,
            group=lambda query: query.topics,
            watch=watch,
        )

    async def retrieve(
        self, question: str, topics: Sequence[str], limit: int, deadline: float | None = None
    ) -> Retrieved:
        """The `limit` passages nearest to `question` inside `topics` (none: everywhere) that are relevant.

        `deadline` is a `time.monotonic()` instant. Raises PharosError.
        """
        encoded = await self._encoder.served([question], deadline=deadline)
        # Sorted, so that the same set of topics is the same group however it was written.
        query = _Query(encoded.value.vectors[0], tuple(sorted(set(topics))), limit)
        found = await self.searching.submit(query, deadline=deadline)
        passages = found.value
        return Retrieved(
            passages=tuple(passage for passage in passages if passage.score >= self._min_score),
            best_score=passages[0].score if passages else None,
            queue_seconds=encoded.queued_seconds + found.queued_seconds,
            encode_seconds=encoded.served_seconds,
            search_seconds=found.served_seconds,
        )

    async def _search(self, queries: Sequence[_Query]) -> Sequence[list[Passage]]:
        limit = max(query.limit for query in queries)
        vectors = np.stack([query.vector for query in queries])
        with on_behalf_of([query.caller for query in queries]):
            found = await self._store.search(vectors, queries[0].topics, limit)
        return [passages[: query.limit] for passages, query in zip(found, queries, strict=True)]

    async def __aenter__(self) -> Self:
        await self.searching.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.searching.__aexit__(kind, exc, trace)
