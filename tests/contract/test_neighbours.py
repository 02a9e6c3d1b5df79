"""Every `VectorStore` hands over the chunks around a chunk, and vectors when they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.adapters.memory import MemoryStore
from app.adapters.milvus import MilvusStore
from app.ranking.joining import grown, spans_around
from app.telemetry.traced import TracedStore
from contracts.filters import span_filter
from contracts.ports import VectorStore
from contracts.types import ChunkSpan, Passage, Queries, SearchMode
from observability.tracing import Tracing
from setup_milvus.chunking import chunks_of
from setup_milvus.datasets import Document
from setup_milvus.store import PassageWriter

WORDS = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
WORDS.pre_tokenizer = pre_tokenizers.Whitespace()
DOCUMENTS = [
    Document("long", "Long", " ".join(f"word{i}" for i in range(60)), "sports", "2025-01-02"),
    Document('quo"te\\', "Quoted", " ".join(f"other{i}" for i in range(40)), 'a "topic" \\', ""),
    Document("short", "Short", "It rained.", "sports", ""),
]
CHUNKS = [chunk for document in DOCUMENTS for chunk in chunks_of(document, WORDS, 15, 4)]
VECTORS = np.random.default_rng(5).normal(size=(len(CHUNKS), 8)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["memory", "traced", "milvus-lite", "milvus-standalone"])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    if not request.param.startswith("milvus"):
        return "", request.param
    service = request.getfixturevalue(request.param.replace("-", "_"))
    name = f"neighbours_{uuid4().hex[:8]}"
    writer = PassageWriter(service.url, "", name)
    writer.prepare(8, {"made": "for a test"}, recreate=False)
    writer.add_topics({document.topic for document in DOCUMENTS})
    writer.write(CHUNKS, VECTORS)
    writer.finish()
    writer.close()
    return service.url, name


@pytest.fixture
async def store(place: tuple[str, str]) -> AsyncIterator[VectorStore]:
    url, collection = place
    if not url:
        memory = MemoryStore()
        passages = [
            Passage(c.id, c.document.id, c.document.title, c.document.topic, c.document.date, c.text, 0.7,
                    chunk=c.index, start=c.start)
            for c in CHUNKS
        ]  # fmt: skip
        memory.add(passages, VECTORS)
        yield TracedStore(memory, Tracing(), "articles") if collection == "traced" else memory
        return
    milvus = MilvusStore(url, "", collection, timeout_seconds=20)
    await milvus.topics()
    yield milvus
    await milvus.close()


def places(passages: list[Passage]) -> list[tuple[str, int | None]]:
    return [(passage.document_id, passage.chunk) for passage in passages]


async def test_the_chunks_of_several_spans_come_in_order_each_once(store: VectorStore) -> None:
    quoted = DOCUMENTS[1]
    found = await store.neighbours(
        [
            ChunkSpan("sports", "long", 3, 4),
            ChunkSpan(quoted.topic, quoted.id, 1, 2),
            ChunkSpan("sports", "long", 1, 3),
            ChunkSpan("sports", "long", 6, 99),
        ]
    )
    last = max(chunk.index for chunk in CHUNKS if chunk.document.id == "long")
    assert places(found) == [*(("long", i) for i in (1, 2, 3, 4, *range(6, last + 1))), (quoted.id, 1), (quoted.id, 2)]
    by_id = {chunk.id: chunk for chunk in CHUNKS}
    for passage in found:
        chunk = by_id[passage.id]
        assert (passage.text, passage.start, passage.score) == (chunk.text, chunk.start, 0)
        assert (passage.title, passage.topic, passage.date) == (
            chunk.document.title,
            chunk.document.topic,
            chunk.document.date,
        )


@pytest.mark.parametrize(
    "spans",
    [
        [],
        [ChunkSpan("sports", "long", 4, 3)],
        [ChunkSpan("sports", "nobody", 0, 9)],
        [ChunkSpan("business", "long", 0, 9)],
        [ChunkSpan("sports", 'x" or document_id != "', 0, 9)],
        [ChunkSpan("sports", "\x00", 0, 9)],
    ],
)
async def test_what_is_not_there_gives_nothing(store: VectorStore, spans: list[ChunkSpan]) -> None:
    assert await store.neighbours(spans) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.title)
async def test_a_found_chunk_grows_to_its_document(store: VectorStore, document: Document) -> None:
    row = next(i for i, chunk in enumerate(CHUNKS) if chunk.document is document)
    found = (await store.search(Queries(("",), VECTORS[row : row + 1]), [], 1, mode="dense")).hits[0]
    (parent,) = grown(found, await store.neighbours(spans_around(found, 4000)), 4000)
    assert parent.passage.text == document.text
    assert parent.passage.id == CHUNKS[row].id


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_vectors_come_when_they_are_asked_for(store: VectorStore, mode: SearchMode) -> None:
    queries = Queries(("word3 word30",), VECTORS[:1])
    with_them = (await store.search(queries, [], 4, mode=mode, with_vectors=True)).hits[0]
    without = (await store.search(queries, [], 4, mode=mode)).hits[0]
    assert [hit.passage.id for hit in with_them] == [hit.passage.id for hit in without]
    assert with_them
    row = {chunk.id: i for i, chunk in enumerate(CHUNKS)}
    for hit in with_them:
        assert hit.vector is not None
        np.testing.assert_allclose(hit.vector, VECTORS[row[hit.passage.id]], atol=1e-3)
    assert {hit.vector is None for hit in without} == {True}


def test_spans_that_touch_are_one() -> None:
    spans = [ChunkSpan("t", "d", 3, 5), ChunkSpan("t", "d", 0, 2), ChunkSpan("t", "d", 8, 9), ChunkSpan("t", "e", 1, 1)]
    assert span_filter(spans) == (
        '(topic == "t" and document_id == "d" and chunk >= 0 and chunk <= 5) or '
        '(topic == "t" and document_id == "d" and chunk >= 8 and chunk <= 9) or '
        '(topic == "t" and document_id == "e" and chunk >= 1 and chunk <= 1)'
    )
    assert span_filter([]) == ""
