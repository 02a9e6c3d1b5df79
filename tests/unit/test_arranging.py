"""The steps around a retriever: what they ask the store for, and what they survive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.arranging import ArrangingRetriever, NarrowingRetriever
from app.errors import InvalidRequest, PharosError, StoreDown, StoreFailed
from app.ranking.options import RankingOptions
from app.retrieval import Explained, Question, Ranking, Retrieved
from contracts.ports import NO_FILTERS
from contracts.types import ChunkSpan, Hit, Passage

CHUNKS = [Passage(f"p{i}", "d", "", "t", "2025-01-01", f"Part {i}.", 0.0, chunk=i) for i in range(3)]
ASKED = Question("What?", (), 1, ranking=RankingOptions(parent_tokens=100))


class Chunks(MemoryStore):
    """Three chunks of a document. `fails` or `hangs` when it is asked for what is around one."""

    def __init__(self, fails: PharosError | None = None, *, hangs: bool = False) -> None:
        super().__init__()
        self.add(CHUNKS, np.eye(3, dtype=np.float32))
        self.fails, self.hangs = fails, hangs
        self.now = self.most = 0

    async def neighbours(self, spans: Sequence[ChunkSpan]) -> list[Passage]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(3600 if self.hangs else 0.001)
        finally:
            self.now -= 1
        if self.fails is not None:
            raise self.fails
        return await super().neighbours(spans)


class Middle:
    """Finds the middle one; nothing where it is narrowed, or refuses that."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.asked: list[Question] = []

    def hits(self, question: Question) -> tuple[Hit, ...]:
        self.asked.append(question)
        narrowed = question.filters != NO_FILTERS
        if narrowed and self.refuses:
            raise InvalidRequest("filters: the collection has nothing they look at")
        return () if narrowed else (Hit(CHUNKS[1], 0.9),)

    async def retrieve(self, question: Question) -> Retrieved:
        hits = self.hits(question)
        return Retrieved(hits, hits, 0.9, 0.0, 0.0, 0.0, "dense")

    async def explain(self, question: Question) -> Explained:
        return Explained(Ranking("dense", self.hits(question), 0.0, 0.0), 0.0, 0.0)


async def texts(store: Chunks, question: Question = ASKED) -> list[str]:
    arranging = ArrangingRetriever(Middle(), store, RankingOptions(), most=100)
    return [passage.text for passage in (await arranging.retrieve(question)).passages]


async def test_a_passage_comes_with_what_is_around_it() -> None:
    (text,) = await texts(Chunks())
    assert [f"Part {i}." in text for i in range(3)] == [True] * 3


@pytest.mark.parametrize("failure", [StoreDown("away"), StoreFailed("broken")])
async def test_without_what_is_around_it_where_the_store_fails(
    failure: PharosError, caplog: pytest.LogCaptureFixture
) -> None:
    assert await texts(Chunks(failure)) == ["Part 1."]
    assert "without what is around them" in caplog.text


async def test_without_what_is_around_it_where_the_time_runs_out() -> None:
    hurried = replace(ASKED, deadline=time.monotonic() + 0.05)
    async with asyncio.timeout(30):
        assert await texts(Chunks(hangs=True), hurried) == ["Part 1."]


async def test_only_some_questions_at_a_time_ask_for_what_is_around() -> None:
    store = Chunks()
    arranging = ArrangingRetriever(Middle(), store, RankingOptions(), most=100)
    await asyncio.gather(*(arranging.retrieve(ASKED) for _ in range(50)))
    assert 1 < store.most <= 8


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_a_question_says_never_costs_it_its_answer(refuses: bool) -> None:
    async def topics() -> list[str]:
        return []

    inner = Middle(refuses=refuses)
    narrowing = NarrowingRetriever(inner, topics, always=True)
    question = Question("What happened in March 2016?", (), 1)
    assert (await narrowing.retrieve(question)).hits == (Hit(CHUNKS[1], 0.9),)
    assert (await narrowing.explain(question)).ranking.hits == (Hit(CHUNKS[1], 0.9),)
    assert [asked.filters != NO_FILTERS for asked in inner.asked] == [True, False] * 2
