"""A collection's version, as those who write passages renew it and those who search read it, on both kinds of Milvus
and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.adapters.milvus import MilvusStore
from app.telemetry.traced import TracedStore
from contracts.types import CollectionVersion, Passage
from observability.tracing import Tracing
from setup_milvus.chunking import Chunk
from setup_milvus.datasets import Document
from setup_milvus.store import PassageWriter
from tests.support.processes import Service

ON_LITE = pytest.mark.parametrize("milvus", ["milvus_lite"], indirect=True)
"""Where the kind of Milvus makes no difference: Standalone takes a quarter of a minute for a collection."""
VECTOR = np.eye(4, dtype=np.float32)[:1]
MANIFEST: dict[str, object] = {"made": "for a test"}


def chunk(text: str) -> Chunk:
    return Chunk(f"p-{text}", Document("d", "title", "", "business", "", "", "", {}), 0, 1, text, "")


@pytest.fixture
def collection() -> str:
    return f"versions_{uuid4().hex[:8]}"


@pytest.fixture
def writer(milvus: Service, collection: str) -> Iterator[PassageWriter]:
    writer = PassageWriter(milvus.url, "", collection)
    yield writer
    writer.close()


@pytest.fixture
async def store(milvus: Service, collection: str) -> AsyncIterator[TracedStore]:
    store = MilvusStore(milvus.url, "", collection, timeout_seconds=20)
    yield TracedStore(store, Tracing(), collection)
    await store.close()


async def version_of(store: TracedStore, *, changing: bool) -> str:
    version = await store.version()
    assert version is not None
    assert version.changing is changing
    return version.id


async def test_it_changes_with_each_write_and_stands_when_a_job_has_ended(
    writer: PassageWriter, store: TracedStore
) -> None:
    assert await store.version() is None
    writer.prepare(4, MANIFEST, recreate=False)
    assert await store.version() is None
    writer.finish()  # nothing was written, and from now on that is known
    seen = [await version_of(store, changing=False)]
    writer.write([chunk("a")], VECTOR)
    seen.append(await version_of(store, changing=True))
    writer.write([chunk("b")], VECTOR)
    seen.append(await version_of(store, changing=True))
    writer.finish()
    seen.append(await version_of(store, changing=False))
    assert len(set(seen)) == 4

    writer.prepare(4, MANIFEST, recreate=False)
    writer.finish()
    assert await version_of(store, changing=False) == seen[-1], "another run that changes nothing"


@ON_LITE
async def test_a_job_that_was_killed_leaves_it_changing_until_another_has_ended(
    milvus: Service, collection: str, writer: PassageWriter, store: TracedStore
) -> None:
    killed = PassageWriter(milvus.url, "", collection)
    killed.prepare(4, MANIFEST, recreate=False)
    killed.finish()
    killed.write([chunk("a")], VECTOR)
    killed.close()
    left = await version_of(store, changing=True)
    writer.prepare(4, MANIFEST, recreate=False)
    assert await version_of(store, changing=True) == left
    writer.finish()
    assert await version_of(store, changing=False) != left


@ON_LITE
async def test_of_two_jobs_at_a_time_the_one_that_still_writes_keeps_it_changing(
    milvus: Service, collection: str, writer: PassageWriter, store: TracedStore
) -> None:
    other = PassageWriter(milvus.url, "", collection)
    other.prepare(4, MANIFEST, recreate=False)
    writer.prepare(4, MANIFEST, recreate=False)
    other.write([chunk("a")], VECTOR)
    writer.write([chunk("b")], VECTOR)
    other.finish()
    await version_of(store, changing=False)
    writer.write([chunk("c")], VECTOR)
    await version_of(store, changing=True)
    other.close()


@ON_LITE
async def test_a_collection_that_is_made_anew_has_another(writer: PassageWriter, store: TracedStore) -> None:
    ids = []
    for _ in range(2):
        writer.prepare(4, MANIFEST, recreate=True)
        assert await store.version() is None
        writer.write([chunk("a")], VECTOR)
        writer.finish()
        ids.append(await version_of(store, changing=False))
    assert len(set(ids)) == 2


async def test_in_memory_it_changes_with_what_is_added() -> None:
    store = MemoryStore()
    assert await store.version() is None
    seen: set[CollectionVersion | None] = {None}
    for _ in range(2):
        store.add([Passage("p", "d", "", "", "", "", 0)], VECTOR)
        version = await store.version()
        assert version is not None
        assert not version.changing
        assert version not in seen
        seen.add(version)
