"""Every implementation of the `VectorStore` port behaves the same, on stores that search by terms and on those that
cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.adapters.milvus import MilvusStore
from app.errors import InvalidRequest
from app.telemetry.traced import TracedStore
from contracts.ports import VectorStore
from contracts.types import Filters, Hit, Passage, Queries, SearchMode, Vectors
from observability.tracing import Tracing
from setup_milvus.chunking import Chunk
from setup_milvus.datasets import Document
from setup_milvus.store import PassageWriter

DIMENSION = 8
TOPICS = ["business", "sports", 'quo"te', "sports"]
AUTHORS = ["Ann O'Neil", 'Q"uote \\ back', "Ёлкин\u2028", ""]
TEXTS = [
    "The dairies of Norvane were sold.",
    "Quorvath Zelminster won the cup in the final.",
    "A storm is coming to the coast.",
    "Storms are seldom in the mountains.",
]
DATES = ["2025-01-02", "2025-03-04", "no date at all", "2024-12-31"]


def vectors() -> Vectors:
    """One axis a passage, the last two at 45 degrees to each other."""
    rows = np.eye(DIMENSION, dtype=np.float32)[:4]
    rows[3] = (rows[1] + rows[3]) / np.sqrt(2)
    return rows


DOCUMENTS = [
    Document(f"d{min(i, 2)}", f"title {i}", "", topic, date, "", author, {"source": f"s{i}", "x.y": 'a"b\\'})
    for i, (topic, date, author) in enumerate(zip(TOPICS, DATES, AUTHORS, strict=True))
]
"""Four passages of three documents: the last two are of one."""


class Place(NamedTuple):
    """No address for the stores in memory."""

    url: str
    collection: str
    has_terms: bool


@pytest.fixture(scope="module", params=["memory", "traced", "memory-without-terms", "milvus-lite", "milvus-standalone"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of Milvus, filled once, and the store in memory, as it is or traced."""
    if not request.param.startswith("milvus"):
        return Place("", request.param, request.param != "memory-without-terms")
    service = request.getfixturevalue(request.param.replace("-", "_"))
    name = f"contract_{uuid4().hex[:8]}"
    writer = PassageWriter(service.url, "", name)
    writer.prepare(DIMENSION, {"made": "for a test"}, recreate=False)
    writer.add_topics(TOPICS)
    chunks = [Chunk(f"p{i}", document, int(i == 3), 1, TEXTS[i], "") for i, document in enumerate(DOCUMENTS)]
    writer.write(chunks, vectors())
    writer.finish()
    writer.close()
    return Place(service.url, name, request.param == "milvus-lite")  # Standalone 2.3.5 has no BM25


@pytest.fixture
async def store(place: Place) -> AsyncIterator[VectorStore]:
    if not place.url:
        memory = MemoryStore() if place.has_terms else MemoryStore(language=None)
        passages = [
            Passage(f"p{i}", d.id, d.title, d.topic, d.date, TEXTS[i], 0, d.author, dict(d.metadata))
            for i, d in enumerate(DOCUMENTS)
        ]
        memory.add(passages, vectors())
        yield TracedStore(memory, Tracing(), "articles") if place.collection == "traced" else memory
        return
    milvus = MilvusStore(place.url, "", place.collection, timeout_seconds=20)
    # Searches are allowed to be some seconds stale; a strong count waits until the rows are there.
    await milvus.topics()
    yield milvus
    await milvus.close()


async def search(
    store: VectorStore,
    row: int,
    topics: list[str] = [],  # noqa: B006 -- never changed
    limit: int = 10,
    *,
    text: str = "",
    mode: SearchMode = "dense",
    filters: Filters | None = None,
) -> list[Hit]:
    queries = Queries((text,), vectors()[row : row + 1])
    found = await store.search(queries, topics, limit, mode=mode, filters=filters or Filters())
    return found.hits[0]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


async def test_nearest_first_with_cosine_scores(store: VectorStore) -> None:
    found = await search(store, 1, limit=2)
    assert ids(found) == ["p1", "p3"]
    assert found[0].score == found[0].passage.score == pytest.approx(1, abs=1e-3)
    assert found[1].score == pytest.approx(np.sqrt(0.5), abs=1e-3)
    passage = found[0].passage
    assert (passage.title, passage.topic, passage.date, passage.text) == ("title 1", "sports", DATES[1], TEXTS[1])
    assert (passage.author, passage.metadata) == (AUTHORS[1], {"source": "s1", "x.y": 'a"b\\'})


async def test_several_queries_in_one_call_keep_their_order(store: VectorStore) -> None:
    for mode in ("dense", "hybrid"):
        queries = Queries(("storm at the coast", "Norvane's dairy"), vectors()[[2, 0]])
        found = await store.search(queries, [], 1, mode=mode)
        assert [ids(hits) for hits in found.hits] == [["p2"], ["p0"]]


async def test_a_topic_keeps_all_others_out(store: VectorStore) -> None:
    for mode in ("dense", "hybrid"):
        found = await search(store, 0, ["sports"], text="dairies of Norvane", mode=mode)
        assert sorted(ids(found)) == ["p1", "p3"]


async def test_several_topics(store: VectorStore) -> None:
    assert sorted(ids(await search(store, 0, ["sports", "business"]))) == ["p0", "p1", "p3"]


async def test_a_topic_with_quotes_is_only_a_name(store: VectorStore) -> None:
    assert ids(await search(store, 2, ['quo"te'])) == ["p2"]
    assert await search(store, 2, ['x" or topic != "']) == []


async def test_terms_find_what_the_vector_misses(store: VectorStore, place: Place) -> None:
    question = "Who is Zelminster?"
    assert ids(await search(store, 0, limit=1, text=question, mode="dense")) == ["p0"]
    found = await store.search(Queries((question,), vectors()[:1]), [], 4, mode="sparse")
    if not place.has_terms:
        assert (found.mode, ids(found.hits[0])[0]) == ("dense", "p0")
        return
    (hit,) = found.hits[0]
    assert (found.mode, hit.passage.id) == ("sparse", "p1")
    assert hit.score > 0
    assert hit.passage.score == pytest.approx(0, abs=1e-3)
    assert hit.coverage == 1


async def test_both_are_fused_by_their_scores(store: VectorStore, place: Place) -> None:
    found = await store.search(Queries(("Zelminster?",), vectors()[1:2]), [], 4, mode="hybrid")
    assert found.mode == ("hybrid" if place.has_terms else "dense")
    hits = found.hits[0]
    assert ids(hits)[:2] == ["p1", "p3"]
    assert [hit.passage.score for hit in hits[:2]] == pytest.approx([1, np.sqrt(0.5)], abs=1e-3)
    if place.has_terms:
        # First in both; without the words, 0.7 of the similarity.
        assert [hit.score for hit in hits[:2]] == pytest.approx([1, 0.7 * np.sqrt(0.5)], abs=1e-3)


async def test_a_fused_hit_says_where_each_leg_has_it(store: VectorStore, place: Place) -> None:
    queries = Queries(("the Zelminster of a storm?",), vectors()[1:2])
    fused = (await store.search(queries, [], 4, mode="hybrid")).hits[0]
    for leg in ("dense", "sparse"):
        alone = (await store.search(queries, [], 4, mode=leg)).hits[0]
        assert all(hit.legs == {} for hit in alone)
        if place.has_terms:
            told = {hit.passage.id: hit.legs[leg] for hit in fused if leg in hit.legs}
            assert {id: seen.score for id, seen in told.items()} == pytest.approx(
                {hit.passage.id: hit.score for hit in alone}, abs=1e-5
            )
            ranked = sorted(told.values(), key=lambda seen: seen.rank)
            assert [seen.rank for seen in ranked] == list(range(1, len(alone) + 1))
            assert [seen.score for seen in ranked] == sorted((seen.score for seen in ranked), reverse=True)
        else:
            assert all(hit.legs == {} for hit in fused), "there was only one"


ASKED = Queries(("Who is Zelminster of Norvane?",), vectors()[:1])
"""Of its two terms p0 and p1 have one each; its vector is p0's."""


@pytest.mark.parametrize("with_vectors", [True, False])
async def test_passages_are_scored_by_what_is_asked_and_found_by_what_is_searched(
    store: VectorStore, with_vectors: bool
) -> None:
    searched = Queries(("Zelminster?",), vectors()[1:2], asked=ASKED)
    plain = Queries(("Zelminster?",), vectors()[1:2])
    for mode in ("dense", "sparse", "hybrid"):
        found = await store.search(searched, [], 4, mode=mode, with_vectors=with_vectors)
        hits = found.hits[0]
        as_ever = (await store.search(plain, [], 4, mode=mode)).hits[0]
        assert [(hit.passage.id, hit.score) for hit in hits] == [(hit.passage.id, hit.score) for hit in as_ever]
        assert hits[0].passage.id == "p1"
        assert hits[0].passage.score == pytest.approx(0, abs=1e-3), mode
        assert all(hit.passage.score == pytest.approx(float(hit.passage.id == "p0"), abs=1e-3) for hit in hits)
        assert hits[0].coverage == (None if found.mode == "dense" else pytest.approx(1 / 2))
        assert [hit.vector is not None for hit in hits] == [with_vectors] * len(hits)


async def test_each_of_several_queries_has_its_own_question(store: VectorStore) -> None:
    rows = vectors()
    asked = Queries(("", ""), rows[[2, 3]])
    for mode in ("dense", "hybrid"):
        found = await store.search(Queries(("storm", "storm"), rows[[3, 2]], asked=asked), [], 4, mode=mode)
        for hits, own in zip(found.hits, ("p2", "p3"), strict=True):
            (hit,) = [hit for hit in hits if hit.passage.id == own]
            assert hit.passage.score == pytest.approx(1, abs=1e-3)


async def test_words_are_found_in_other_forms(store: VectorStore, place: Place) -> None:
    if place.has_terms:
        assert sorted(ids(await search(store, 0, text="What is a storming?", mode="sparse"))) == ["p2", "p3"]
        assert await search(store, 0, text="the who is are", mode="sparse") == []


FILTERS = [
    (Filters(date_from="2025-01-02"), ["p0", "p1"]),
    (Filters(date_to="2025-01-02"), ["p0", "p3"]),
    (Filters(date_from="2025-01-01", date_to="2025-02-01"), ["p0"]),
    (Filters(document_ids=("d2",)), ["p2", "p3"]),
    (Filters(document_ids=("d0", "d1")), ["p0", "p1"]),
    (Filters(authors=(AUTHORS[0],)), ["p0"]),
    (Filters(authors=(AUTHORS[1], AUTHORS[2])), ["p1", "p2"]),
    (Filters(metadata=(("source", ("s1", "s3")),)), ["p1", "p3"]),
    (Filters(metadata=(("source", ("s1", "s3")), ("x.y", ('a"b\\',)))), ["p1", "p3"]),
    (Filters(metadata=(("source", ("s1",)),), authors=(AUTHORS[0],)), []),
    (Filters(metadata=(("nobody", ("s1",)),)), []),
]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize(("filters", "expected"), FILTERS)
async def test_filters(store: VectorStore, mode: SearchMode, filters: Filters, expected: list[str]) -> None:
    found = await search(store, 0, text="title", mode=mode, filters=filters)
    assert sorted(ids(found)) == expected


HOSTILE = [
    'x" or author != "', "x' or author != '", 'x\\" or author != \\"', "\\", '"', "'", '"]  or id != "',
    "x\nor 1 == 1", "\t\r\n", "\u2028 \u2029 \x7f", "%", "_%", "{a}", "$meta", "\\u0022 or id != \\u0022", "😀\"",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
async def test_no_value_breaks_out_of_its_quotes(store: VectorStore, value: str) -> None:
    for filters in (
        Filters(authors=(value,)),
        Filters(authors=(value, "nobody")),
        Filters(document_ids=(value,)),
        Filters(metadata=(("source", (value,)),)),
        Filters(metadata=(("source", (value, "nothing")),)),
    ):
        assert await search(store, 0, text="title", mode="hybrid", filters=filters) == []


@pytest.mark.parametrize("text", [*HOSTILE, "", " ", "the", "日本語", "\x00"])
async def test_any_text_can_be_a_question(store: VectorStore, text: str) -> None:
    for mode in ("sparse", "hybrid"):
        await search(store, 0, text=text, mode=mode)


async def test_what_cannot_be_written_is_refused(place: Place) -> None:
    if place.url:
        milvus = MilvusStore(place.url, "", place.collection, timeout_seconds=20)
        for filters in (Filters(authors=("\x00",)), Filters(metadata=(('a"] == 1 or topic["', ("x",)),))):
            with pytest.raises(InvalidRequest):
                await search(milvus, 0, filters=filters)
        await milvus.close()


async def test_topics_are_counted(store: VectorStore) -> None:
    counted = {topic.topic: (topic.documents, topic.passages) for topic in await store.topics()}
    assert await store.topic_names() == sorted(counted)
    assert counted["business"] == (1, 1)
    assert counted['quo"te'] == (1, 1)
    assert counted["sports"][1] == 2


async def test_no_queries_find_nothing(store: VectorStore) -> None:
    for mode in ("dense", "sparse", "hybrid"):
        assert (await store.search(Queries((), vectors()[:0]), [], 3, mode=mode)).hits == []
