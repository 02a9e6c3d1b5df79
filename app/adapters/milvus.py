"""Milvus (Lite, Standalone or a cluster) as the `VectorStore`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import msgspec
from pymilvus import AsyncMilvusClient, MilvusException

from app.adapters.milvus_rows import dense_hit, hybrid_hits, passage_of, sparse_hit
from app.errors import InvalidRequest, StoreDown, StoreFailed
from contracts import collection as schema
from contracts.analysis import terms
from contracts.collection import Manifest
from contracts.filters import expression, span_filter, topic_filter
from contracts.ports import CHUNKS_MAX, NO_FILTERS
from contracts.types import (
    ChunkSpan,
    CollectionVersion,
    Filters,
    Found,
    Fusion,
    Passage,
    Queries,
    SearchMode,
    TopicCount,
    Vectors,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
Rows = list[list[dict[str, Any]]]
"""Of each query."""

_MANIFEST_SECONDS = 30.0

_CONCURRENT_COUNTS = 4

_LIST_LIMIT = 16_384
"""The most rows one Milvus query may return (its quotaAndLimits.limits.maxQueryResultWindow)."""


class MilvusStore:
    """One client, which connects when first used, so that the gateway starts and recovers without Milvus.

    `timeout_seconds` bounds each call. Bounded staleness is Milvus' default and what a search wants; the counts of
    `topics` are read strongly, since people look at them right after an upload. `fusion` is how a hybrid search makes
    one of its legs.
    """

    def __init__(
        self, uri: str, token: str, collection: str, timeout_seconds: float, fusion: Fusion = "scores"
    ) -> None:
        # pymilvus logs every failed call with its traceback; the gateway answers and logs the failure itself.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._client = AsyncMilvusClient(uri, token=token, grpc_options=schema.GRPC_OPTIONS)
        self._collection = collection
        self._catalog = schema.catalog_of(collection)
        self._timeout = timeout_seconds
        self._fusion: Fusion = fusion
        self._known: Manifest | None = None
        self._known_at = 0.0
        self._said = False

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
        if not queries.texts:
            return Found(mode, [])
        manifest = await self._manifest()
        if manifest.schema < schema.SCHEMA and filters != NO_FILTERS:
            raise InvalidRequest(
                f"filters: the collection {self._collection!r} keeps nothing that they look at: nothing is ingested "
                "yet, or by an older Pharos; ingest the documents, with --recreate where they are there already."
            )
        try:
            where = expression(topics, filters)
        except ValueError as exc:
            raise InvalidRequest(f"filters: {exc}") from exc
        if manifest.language is None and mode != "dense":
            mode = "dense"
            self._say_that_there_are_no_terms()
        fields = schema.fields_of(manifest.schema)
        asked = queries.asked or queries
        # The distance of a search by the question's own vector is the similarity; vectors are most of what travels.
        by = [None] * len(queries.texts) if queries.asked is None else list(queries.asked.vectors)
        also = ["vector"] if with_vectors or queries.asked is not None else []
        if mode == "dense" or manifest.language is None:
            rows = await self._dense(queries.vectors, where, limit, [*fields, *also])
            dense = [
                [dense_hit(row, vector, with_vector=with_vectors) for row in found]
                for found, vector in zip(rows, by, strict=True)
            ]
            return Found("dense", dense, manifest.encoder)
        words = [terms(text, manifest.language) for text in asked.texts]
        searched = words if queries.asked is None else [terms(text, manifest.language) for text in queries.texts]
        texts = [" ".join(of_one) for of_one in searched]
        fields = [*fields, "terms"]
        # With the vectors, since the score of a passage is its cosine similarity however it was found.
        with_them = [*fields, "vector"]
        if mode == "sparse":
            rows = await self._sparse(texts, where, limit, with_them)
            each = zip(rows, words, asked.vectors, strict=True)
            sparse = [[sparse_hit(row, *own, with_vector=with_vectors) for row in found] for found, *own in each]
            return Found("sparse", sparse, manifest.encoder)
        depth = leg_depth(limit)
        try:
            async with asyncio.TaskGroup() as tasks:
                near = tasks.create_task(self._dense(queries.vectors, where, depth, [*fields, *also]))
                worded = tasks.create_task(self._sparse(texts, where, depth, with_them))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        legs = zip(near.result(), worded.result(), words, queries.vectors, by, strict=True)
        fused = [hybrid_hits(*own, self._fusion, limit, with_vector=with_vectors) for own in legs]
        return Found("hybrid", fused, manifest.encoder)

    def _say_that_there_are_no_terms(self) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "the collection %s has no terms (nothing is ingested yet, or by an older Pharos, or on a Milvus before "
                "2.5): questions are searched by vectors alone",
                self._collection,
            )

    async def _dense(self, vectors: Vectors, where: str, limit: int, fields: list[str]) -> Rows:
        return await self._call(
            lambda: self._client.search(
                self._collection,
                data=list(vectors),
                anns_field="vector",
                filter=where,
                limit=limit,
                output_fields=fields,
                search_params={"metric_type": schema.METRIC},
                retry_times=schema.RETRIES,
            ),
            if_missing=[[] for _ in vectors],
        )

    async def _sparse(self, texts: list[str], where: str, limit: int, fields: list[str]) -> Rows:
        return await self._call(
            lambda: self._client.search(
                self._collection,
                data=texts,
                anns_field="sparse",
                filter=where,
                limit=limit,
                output_fields=fields,
                search_params={"metric_type": schema.BM25},
                retry_times=schema.RETRIES,
            ),
            if_missing=[[] for _ in texts],
        )

    async def _manifest(self) -> Manifest:
        """How the collection was made; looked up again now and then, since it may be made anew in another way."""
        now = time.monotonic()
        if self._known is not None and now - self._known_at < _MANIFEST_SECONDS:
            return self._known
        # Strongly only while nothing is known: it has just been ingested, perhaps.
        level = "Strong" if self._known is None else "Bounded"
        rows = await self._query(self._catalog, f'key == "{schema.MANIFEST_KEY}"', ["value"], level)
        if not rows:
            self._known = None
            return Manifest()
        manifest = self._read(Manifest.read, rows[0]["value"])
        self._known, self._known_at = manifest, now
        return manifest

    async def neighbours(self, spans: Sequence[ChunkSpan]) -> list[Passage]:
        wanted = span_filter(spans)
        if not wanted:
            return []
        fields = schema.fields_of((await self._manifest()).schema)
        rows = await self._query(self._collection, wanted, ["id", *fields], "Bounded", limit=CHUNKS_MAX)
        passages = [passage_of(row["id"], row, 0.0) for row in rows]
        return sorted(passages, key=lambda passage: (passage.document_id, passage.chunk or 0))

    async def version(self) -> CollectionVersion | None:
        rows = await self._query(self._catalog, f'key == "{schema.VERSION_KEY}"', ["value"])
        return self._read(schema.version_of, rows[0]["value"]) if rows else None

    def _read(self, read: Callable[[str], T], text: str) -> T:
        """A catalog's entry. Raises StoreFailed for one that a newer Pharos has written, perhaps."""
        try:
            return read(text)
        except msgspec.DecodeError as exc:
            raise StoreFailed(
                f"The catalog of the collection {self._collection!r} cannot be understood ({exc}). Is the gateway "
                "older than what ingested it?"
            ) from exc

    async def topic_names(self) -> list[str]:
        rows = await self._query(self._catalog, f'key like "{schema.TOPIC_KEY_PREFIX}%"', ["key"], limit=_LIST_LIMIT)
        return sorted(row["key"].removeprefix(schema.TOPIC_KEY_PREFIX) for row in rows)

    async def topics(self) -> list[TopicCount]:
        # A few at a time: each count has the timeout of one call, and Milvus works them off one after the other.
        slots = asyncio.Semaphore(_CONCURRENT_COUNTS)

        async def count(name: str) -> TopicCount:
            async with slots:
                return await self._count(name)

        return list(await asyncio.gather(*map(count, await self.topic_names())))

    async def _count(self, topic: str) -> TopicCount:
        inside = topic_filter([topic])
        passages = await self._query(self._collection, inside, ["count(*)"])
        documents = await self._query(self._collection, f"{inside} and chunk == 0", ["count(*)"])
        return TopicCount(topic, documents=_counted(documents), passages=_counted(passages))

    async def _query(
        self, collection: str, filter: str, fields: list[str], level: str = "Strong", **options: int
    ) -> list[dict[str, Any]]:
        return await self._call(
            lambda: self._client.query(
                collection,
                filter=filter,
                output_fields=fields,
                consistency_level=level,
                retry_times=schema.RETRIES,
                **options,
            ),
            if_missing=[],
        )

    async def ready(self) -> bool:
        """Whether Milvus answers."""
        try:
            await self._call(
                lambda: self._client.has_collection(self._collection, retry_times=schema.RETRIES), if_missing=False
            )
        except (StoreDown, StoreFailed):
            return False
        return True

    async def _call(self, call: Callable[[], Awaitable[T]], *, if_missing: T) -> T:
        """The outcome of `call`; `if_missing` where nothing has been ingested yet. Raises StoreDown or StoreFailed."""
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await call()
                except MilvusException as exc:
                    if exc.code != schema.COLLECTION_NOT_LOADED:
                        raise
                    await self._load()
                    return await call()
        except TimeoutError as exc:
            raise StoreDown(f"Milvus did not answer within {self._timeout:g} s; try again later.") from exc
        except grpc.RpcError as exc:
            raise StoreDown("Milvus cannot be reached; try again in a moment.") from exc
        except MilvusException as exc:
            if exc.code == schema.COLLECTION_NOT_FOUND:
                return if_missing
            if schema.may_pass(exc):
                raise StoreDown("Milvus cannot be reached; try again in a moment.") from exc
            raise StoreFailed("Milvus refused the request; its log says why.") from exc

    async def _load(self) -> None:
        for collection in (self._catalog, self._collection):
            await self._client.load_collection(collection)

    async def close(self) -> None:
        """Close the connection. The store is not usable afterwards."""
        await self._client.close()


def leg_depth(limit: int) -> int:
    """How many of each leg's best are fused into `limit`. A passage that is deep in both legs seldom wins, and Milvus
    Lite's time grows with it: for 64 questions and 5,000 passages 0.3 s with 20, 0.7 s with 50."""
    return max(limit, min(4 * limit, 50), 20)


def _counted(rows: list[dict[str, Any]]) -> int:
    return int(rows[0]["count(*)"]) if rows else 0
