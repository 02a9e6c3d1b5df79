"""Every implementation of the `VectorStore` port behaves the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.adapters.milvus import MilvusStore
from app.telemetry.traced import TracedStore
from contracts.ports import VectorStore
from contracts.types import Passage, Vectors
from observability.tracing import Tracing
from setup_milvus.chunking import Chunk
from setup_milvus.datasets import Document
from setup_milvus.store import PassageWriter

DIMENSION = 8
TOPICS = ["business", "sports", 'quo"te', "sports"]


def vectors() -> Vectors:
    """One axis a passage, the last two at 45 degrees to each other."""
    rows = np.eye(DIMENSION, dtype=np.float32)[:4]
    rows[3] = (rows[1] + rows[3]) / np.sqrt(2)
    return rows


DOCUMENTS = [Document(f"d{min(i, 2)}", f"title {i}", "", topic, "2025-01-02") for i, topic in enumerate(TOPICS)]
"""Four passages of three documents: the last two are of one."""


@pytest.fixture(scope="module", params=["memory", "traced", "milvus-lite", "milvus-standalone"])
def filled(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Address and collection of each kind of Milvus, filled once; no address for the store in memory, as it is or
    traced."""
    if request.param in ("memory", "traced"):
        return "", request.param
    service = request.getfixturevalue(request.param.replace("-", "_"))
    name = f"contract_{uuid4().hex[:8]}"
    writer = PassageWriter(service.url, "", name)
    writer.prepare(DIMENSION, {"made": "for a test"}, recreate=False)
    writer.add_topics(TOPICS)
    chunks = [Chunk(f"p{i}", document, int(i == 3), 1, f"text {i}", "") for i, document in enumerate(DOCUMENTS)]
    writer.write(chunks, vectors())
    writer.finish()
    writer.close()
    return service.url, name


@pytest.fixture
async def store(filled: tuple[str, str]) -> AsyncIterator[VectorStore]:
    url, collection = filled
    if not url:
        memory = MemoryStore()
        passages = [
            Passage(f"p{i}", "d1" if i == 3 else d.id, d.title, d.topic, d.date, f"text {i}", 0)
            for i, d in enumerate(DOCUMENTS)
        ]
        memory.add(passages, vectors())
        yield memory if collection == "memory" else TracedStore(memory, Tracing(), "articles")
        return
    milvus = MilvusStore(url, "", collection, timeout_seconds=20)
    # Searches are allowed to be some seconds stale; a strong count waits until the rows are there.
    await milvus.topics()
    yield milvus
    await milvus.close()


async def test_nearest_first_with_cosine_scores(store: VectorStore) -> None:
    (found,) = await store.search(vectors()[1:2], [], 2)
    assert [passage.id for passage in found] == ["p1", "p3"]
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert found[1].score == pytest.approx(np.sqrt(0.5), abs=1e-3)
    assert (found[0].title, found[0].topic, found[0].date, found[0].text) == (
        "title 1",
        "sports",
        "2025-01-02",
        "text 1",
    )


async def test_several_vectors_in_one_call_keep_their_order(store: VectorStore) -> None:
    found = await store.search(vectors()[[2, 0]], [], 1)
    assert [passages[0].id for passages in found] == ["p2", "p0"]


async def test_a_topic_keeps_all_others_out(store: VectorStore) -> None:
    (found,) = await store.search(vectors()[0:1], ["sports"], 10)
    assert {passage.topic for passage in found} == {"sports"}
    assert len(found) == 2


async def test_several_topics(store: VectorStore) -> None:
    (found,) = await store.search(vectors()[0:1], ["sports", "business"], 10)
    assert sorted(passage.id for passage in found) == ["p0", "p1", "p3"]


async def test_a_topic_with_quotes_is_only_a_name(store: VectorStore) -> None:
    (found,) = await store.search(vectors()[2:3], ['quo"te'], 10)
    assert [passage.id for passage in found] == ["p2"]
    (none,) = await store.search(vectors()[2:3], ['x" or topic != "'], 10)
    assert none == []


async def test_topics_are_counted(store: VectorStore) -> None:
    counted = {topic.topic: (topic.documents, topic.passages) for topic in await store.topics()}
    assert await store.topic_names() == sorted(counted)
    assert counted == {"business": (1, 1), "sports": (1, 2), 'quo"te': (1, 1)}


async def test_no_vectors_find_nothing(store: VectorStore) -> None:
    assert list(await store.search(vectors()[:0], [], 3)) == []
