"""Milvus (Lite, Standalone or a cluster) as the `VectorStore`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from pymilvus import AsyncMilvusClient, MilvusException

from app.errors import StoreDown, StoreFailed
from contracts import collection as schema
from contracts.types import Passage, TopicCount, Vectors

T = TypeVar("T")

_CONCURRENT_COUNTS = 4

_LIST_LIMIT = 16_384
"""The most rows one Milvus query may return (its quotaAndLimits.limits.maxQueryResultWindow)."""


class MilvusStore:
    """One client, which connects when first used, so that the gateway starts and recovers without Milvus.

    `timeout_seconds` bounds each call. Bounded staleness is Milvus' default and what a search wants; the counts of
    `topics` are read strongly, since people look at them right after an upload.
    """

    def __init__(self, uri: str, token: str, collection: str, timeout_seconds: float) -> None:
        # pymilvus logs every failed call with its traceback; the gateway answers and logs the failure itself.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._client = AsyncMilvusClient(uri, token=token, grpc_options=schema.GRPC_OPTIONS)
        self._collection = collection
        self._catalog = schema.catalog_of(collection)
        self._timeout = timeout_seconds

    async def search(self, vectors: Vectors, topics: Sequence[str], limit: int) -> list[list[Passage]]:
        if not len(vectors):
            return []
        found: list[list[dict[str, Any]]] = await self._call(
            lambda: self._client.search(
                self._collection,
                data=list(vectors),
                filter=schema.topic_filter(topics),
                limit=limit,
                output_fields=schema.PASSAGE_FIELDS,
                search_params={"metric_type": schema.METRIC},
                retry_times=schema.RETRIES,
            ),
            if_missing=[[] for _ in vectors],
        )
        return [[_passage(hit) for hit in hits] for hits in found]

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
        inside = schema.topic_filter([topic])
        passages = await self._query(self._collection, inside, ["count(*)"])
        documents = await self._query(self._collection, f"{inside} and chunk == 0", ["count(*)"])
        return TopicCount(topic, documents=_counted(documents), passages=_counted(passages))

    async def _query(self, collection: str, filter: str, fields: list[str], **options: int) -> list[dict[str, Any]]:
        return await self._call(
            lambda: self._client.query(
                collection,
                filter=filter,
                output_fields=fields,
                consistency_level="Strong",
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


def _passage(hit: dict[str, Any]) -> Passage:
    entity = hit["entity"]
    return Passage(
        id=hit["id"],
        document_id=entity["document_id"],
        title=entity["title"],
        topic=entity["topic"],
        date=entity["date"],
        text=entity["text"],
        score=float(hit["distance"]),
    )


def _counted(rows: list[dict[str, Any]]) -> int:
    return int(rows[0]["count(*)"]) if rows else 0
