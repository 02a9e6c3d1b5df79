"""The job itself: read, chunk, skip what is stored, encode, upsert, verify."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import grpc
import httpx
from pymilvus import MilvusException
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_exponential_jitter

from contracts import collection as schema
from contracts.analysis import Language
from contracts.types import ModelCard
from setup_milvus.chunking import Chunk, chunks_of
from setup_milvus.datasets import Dataset, Tally
from setup_milvus.model_service import ModelService
from setup_milvus.settings import Settings
from setup_milvus.store import PassageWriter

log = logging.getLogger(__name__)
T = TypeVar("T")


class DependencyDown(Exception):
    """app_llm or Milvus stayed away for longer than the job is willing to wait."""


@dataclass(slots=True)
class Outcome:
    """What the job did. `expected` and `stored` count passages per topic; `stored` is None in a dry run."""

    tally: Tally = field(default_factory=Tally)
    passages: int = 0
    already_stored: int = 0
    truncated: int = 0
    expected: Counter[str] = field(default_factory=Counter)
    stored: dict[str, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether every passage that was read is stored. More may be: of other data sets in the same collection."""
        return self.stored is None or all(self.stored[topic] >= n for topic, n in self.expected.items())


@dataclass(frozen=True, slots=True)
class Step:
    """One batch is done: of its `passages` so many are new in the store and so many were there from an earlier run, in
    a dry run none; with it so many `documents` have all of theirs done."""

    passages: int
    documents: int
    stored: int = 0
    present: int = 0


class Ingestion:
    """One run. `on_read(rows, passages)` hears of what has been read since it was last called, and `on_step` of each
    batch that is done."""

    def __init__(
        self,
        settings: Settings,
        on_read: Callable[[int, int], object] = lambda _rows, _passages: None,
        on_step: Callable[[Step], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._on_read = on_read
        self._on_step = on_step
        self._rows = 0
        self._left: dict[str, int] = {}
        self._models = ModelService(settings.model_url)
        self._outcome = Outcome()
        self._announced: set[str] = set()
        self._writer: PassageWriter | None = None

    async def run(
        self, dataset: Dataset, *, limit: int | None = None, recreate: bool = False, dry_run: bool = False
    ) -> Outcome:
        """Raises DependencyDown, ManifestMismatch or DatasetError. Whatever it had stored stays stored; running it
        again goes on from there."""
        settings = self._settings
        try:
            card = await self._patiently(self._models.card, "app_llm")
            tokenizer = await self._patiently(self._models.encoder_tokenizer, "app_llm")
            if not dry_run:
                await self._open_store(card, recreate=recreate)
            documents = dataset.documents(self._outcome.tally, limit)

            chunks = (
                chunk
                for document in documents
                for chunk in chunks_of(document, tokenizer, settings.chunk_tokens, settings.chunk_overlap_tokens)
            )
            slots = asyncio.Semaphore(settings.ingest_in_flight)
            async with asyncio.TaskGroup() as tasks:
                while batch := await self._read(chunks):
                    await slots.acquire()
                    task = tasks.create_task(self._store(batch, dry_run=dry_run))
                    task.add_done_callback(lambda _: slots.release())
            if not dry_run:
                await self._verify()
            return self._outcome
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self._models.close()
            if self._writer is not None:
                self._writer.close()

    async def _open_store(self, card: ModelCard, *, recreate: bool) -> None:
        settings = self._settings
        manifest: dict[str, object] = {
            "encoder": card.encoder,
            "dimension": card.dimension,
            "chunk_tokens": settings.chunk_tokens,
            "chunk_overlap_tokens": settings.chunk_overlap_tokens,
        }

        async def open_store() -> PassageWriter:
            return await asyncio.to_thread(
                PassageWriter,
                settings.milvus_uri,
                settings.milvus_token,
                settings.collection,
                Language(settings.analyzer_language),
            )

        self._writer = await self._patiently(open_store, "Milvus")
        await self._milvus(lambda writer: writer.prepare(card.dimension, manifest, recreate=recreate))

    async def _read(self, chunks: Iterator[Chunk]) -> list[Chunk]:
        # Reading and chunking take CPU, so they run beside the event loop.
        batch = await asyncio.to_thread(_take, chunks, self._settings.ingest_batch_passages)
        before, self._rows = self._rows, self._outcome.tally.rows
        self._on_read(self._rows - before, len(batch))
        return batch

    async def _store(self, chunks: list[Chunk], *, dry_run: bool) -> None:
        outcome = self._outcome
        outcome.passages += len(chunks)
        outcome.expected.update(chunk.document.topic for chunk in chunks)
        stored = present = 0
        if not dry_run:
            new_topics = {chunk.document.topic for chunk in chunks} - self._announced
            if new_topics:
                await self._milvus(lambda writer: writer.add_topics(new_topics))
                self._announced |= new_topics
            stored = await self._store_missing(chunks)
            present = len(chunks) - stored
        self._on_step(Step(len(chunks), self._completed(chunks), stored, present))

    def _completed(self, chunks: list[Chunk]) -> int:
        """How many documents have no passage left, now that these are done. Batches end in any order."""
        completed = 0
        for chunk in chunks:
            left = self._left.pop(chunk.document.id, chunk.of) - 1
            if left:
                self._left[chunk.document.id] = left
            else:
                completed += 1
        return completed

    async def _store_missing(self, chunks: list[Chunk]) -> int:
        """How many were missing."""
        ids = [chunk.id for chunk in chunks]
        present = await self._milvus(lambda writer: writer.present(ids))
        missing = [chunk for chunk in chunks if chunk.id not in present]
        self._outcome.already_stored += len(present)
        if not missing:
            return 0
        texts = [chunk.encoded for chunk in missing]
        encoding = await self._patiently(lambda: self._models.encode(texts), "app_llm")
        self._outcome.truncated += len(encoding.truncated)
        await self._milvus(lambda writer: writer.write(missing, encoding.vectors))
        return len(missing)

    async def _verify(self) -> None:
        await self._milvus(lambda writer: writer.finish())
        stored = {}
        for topic in sorted(self._outcome.expected):
            stored[topic] = await self._milvus(lambda writer, topic=topic: writer.count(topic))  # type: ignore[misc]
        self._outcome.stored = stored

    async def _milvus(self, use: Callable[[PassageWriter], T]) -> T:
        writer = self._writer
        assert writer is not None, "the store is opened first"

        def use_loaded() -> T:
            try:
                return use(writer)
            except MilvusException as exc:
                if exc.code != schema.COLLECTION_NOT_LOADED:
                    raise
                writer.load()
                return use(writer)

        return await self._patiently(lambda: asyncio.to_thread(use_loaded), "Milvus")

    async def _patiently(self, call: Callable[[], Awaitable[T]], dependency: str) -> T:
        """`call`, again and again while the dependency is away. Raises DependencyDown."""

        def tell(state: RetryCallState) -> None:
            wait = state.next_action.sleep if state.next_action else 0
            log.warning("%s is away; trying again in %.0f s", dependency, wait)

        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_pass),
                stop=stop_after_delay(self._settings.ingest_retry_seconds),
                wait=wait_exponential_jitter(multiplier=0.5, max=10),
                before_sleep=tell,
                reraise=True,
            ):
                with attempt:
                    return await call()
        except Exception as exc:
            if _may_pass(exc):
                why = str(exc).splitlines()[0] if str(exc) else repr(exc)
                raise DependencyDown(
                    f"{dependency} stayed away for {self._settings.ingest_retry_seconds:.0f} s ({why}). "
                    "What was stored is safe: run the same command again when it is back."
                ) from exc
            raise
        raise AssertionError("unreachable: AsyncRetrying returns or raises")


def _take(chunks: Iterator[Chunk], count: int) -> list[Chunk]:
    return list(islice(chunks, count))


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (429, 502, 503, 504)
    if isinstance(error, MilvusException):
        return schema.may_pass(error)
    return isinstance(error, httpx.TransportError | grpc.RpcError)
