"""The ports `Encoder`, `Reranker` and `VectorStore` with a span around each call.

Calls are batches: a span is inside its request's trace when there is one request, and linked to all of them when there
are several (`Tracing.begin_batch`). The requests are those that app/merging.py and app/retrieval.py name.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import SpanKind

from contracts.ports import NO_FILTERS, Encoder, Reranker, VectorStore
from contracts.types import (
    ChunkSpan,
    CollectionVersion,
    Encoding,
    Filters,
    Found,
    Pair,
    Passage,
    Queries,
    Scores,
    SearchMode,
    TopicCount,
)
from observability import semconv
from observability.trace_context import callers_now, current_context
from observability.tracing import OpenSpan, Tracing


class TracedEncoder:
    """Around what goes over the network; its span is the one that the model service is told of."""

    def __init__(self, encoder: Encoder, tracing: Tracing) -> None:
        self._encoder = encoder
        self._tracing = tracing

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says."""
        with self._tracing.begin_batch(semconv.EMBEDDINGS, callers_now()) as span:
            encoding = await self._encoder.encode(texts, timeout_seconds=timeout_seconds)
            if span.recording:
                span.set(semconv.of_encoding(encoding))
            return encoding


class TracedReranker:
    """The same for scores."""

    def __init__(self, reranker: Reranker, tracing: Tracing) -> None:
        self._reranker = reranker
        self._tracing = tracing

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says."""
        with self._tracing.begin_batch(semconv.RERANK, callers_now()) as span:
            scores = await self._reranker.rerank(pairs, timeout_seconds=timeout_seconds)
            if span.recording:
                span.set(semconv.of_scores(scores))
            return scores


class TracedStore:
    """Around the store's client. `collection` is what the spans name."""

    def __init__(self, store: VectorStore, tracing: Tracing, collection: str) -> None:
        self._store = store
        self._tracing = tracing
        self._collection = collection

    async def search(
        self,
        queries: Queries,
        topics: Sequence[str],
        limit: int,
        *,
        mode: SearchMode,
        filters: Filters = NO_FILTERS,
        with_vectors: bool = False,
    ) -> Found:
        """As the port says."""
        size = len(queries.texts)
        attributes: dict[str, str | int] = {**self._attributes("search"), semconv.DB_OPERATION_BATCH_SIZE: size}
        with self._tracing.begin_batch(f"search {self._collection}", callers_now(), attributes) as span:
            found = await self._store.search(
                queries, topics, limit, mode=mode, filters=filters, with_vectors=with_vectors
            )
            if span.recording:
                span.set({semconv.DB_RESPONSE_RETURNED_ROWS: sum(map(len, found.hits))})
            return found

    async def neighbours(self, spans: Sequence[ChunkSpan]) -> list[Passage]:
        """As the port says."""
        with self._begin("neighbours"):
            return await self._store.neighbours(spans)

    async def version(self) -> CollectionVersion | None:
        """As the port says."""
        with self._begin("version"):
            return await self._store.version()

    async def topic_names(self) -> list[str]:
        """As the port says."""
        with self._begin("topic_names"):
            return await self._store.topic_names()

    async def topics(self) -> list[TopicCount]:
        """As the port says."""
        with self._begin("topics"):
            return await self._store.topics()

    def _begin(self, what: str) -> OpenSpan:
        return self._tracing.begin(
            f"{what} {self._collection}",
            kind=SpanKind.CLIENT,
            parent=current_context(),
            attributes=self._attributes("query"),
        )

    def _attributes(self, operation: str) -> dict[str, str]:
        return {
            semconv.DB_SYSTEM_NAME: semconv.MILVUS,
            semconv.DB_OPERATION_NAME: operation,
            semconv.DB_COLLECTION_NAME: self._collection,
        }
