"""The retriever over the store in memory: which searches travel together, and what is relevant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.batching import BatchLimits
from app.errors import WrongEncoder
from app.merging import MergingEncoder
from app.retrieval import Question, Retriever
from contracts.analysis import Language
from contracts.ports import NO_FILTERS
from contracts.types import Encoding, Filters, Found, Passage, Queries, SearchMode, Vectors

AXES = {"sea": 0, "mountain": 1}


def vector(text: str) -> Vectors:
    return np.eye(3, dtype=np.float32)[next((axis for word, axis in AXES.items() if word in text), 2)]


class Words:
    """An Encoder that knows two words."""

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        return Encoding(np.stack([vector(text) for text in texts]), (1,) * len(texts))


class Counted(MemoryStore):
    """Remembers its calls."""

    def __init__(self, language: Language | None = Language.ENGLISH) -> None:
        super().__init__(language)
        self.calls: list[tuple[SearchMode, int]] = []

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
        self.calls.append((mode, len(queries.texts)))
        return await super().search(queries, topics, limit, mode=mode, filters=filters, with_vectors=with_vectors)


def store(language: Language | None = Language.ENGLISH) -> Counted:
    made = Counted(language)
    texts = ["The sea is wide.", "A mountain is high.", "Quorvath Zelminster left."]
    passages = [Passage(str(i), f"d{i}", "", "t", f"2025-01-0{i + 1}", text, 0) for i, text in enumerate(texts)]
    # The last is near to no question's vector.
    made.add(passages, np.array([[1, 0, 0], [0, 1, 0], [0, 0.8, 0.6]], dtype=np.float32))
    return made


@asynccontextmanager
async def retrieving(store: MemoryStore, **options: object) -> AsyncIterator[Retriever]:
    limits = BatchLimits(16, 64, 1)
    encoder = MergingEncoder(Words(), slice_texts=16, limits=limits)
    given: dict[str, object] = {"min_score": 0.7, "min_coverage": 0.75, **options}
    retriever = Retriever(encoder, store, search_limits=limits, **given)  # type: ignore[arg-type]
    async with encoder.batcher, retriever:
        yield retriever


def ids(passages: Sequence[Passage]) -> list[str]:
    return [passage.id for passage in passages]


async def test_what_is_similar_or_has_the_words_is_relevant() -> None:
    async with retrieving(store()) as retriever:
        assert ids((await retriever.retrieve(Question("sea", (), 3))).passages) == ["0"]
        by_words = await retriever.retrieve(Question("Who is Zelminster?", (), 3))
        assert ids(by_words.passages) == ["2"]
        assert by_words.best_score == pytest.approx(0.6)
        # One of two words is not enough.
        assert (await retriever.retrieve(Question("Zelminster's castle?", (), 3))).passages == ()


async def test_by_vectors_alone_words_do_not_count() -> None:
    async with retrieving(store()) as retriever:
        found = await retriever.retrieve(Question("Who is Zelminster?", (), 3, mode="dense"))
        assert (found.passages, found.mode) == ((), "dense")


async def test_a_store_without_terms_is_searched_by_vectors() -> None:
    async with retrieving(store(language=None)) as retriever:
        for mode in ("hybrid", "sparse", None):
            found = await retriever.retrieve(Question("mountain", (), 1, mode=mode))  # type: ignore[arg-type]
            assert (ids(found.passages), found.mode) == (["1"], "dense")


async def test_searches_of_one_mode_and_filter_travel_together() -> None:
    counted = store()
    questions = [
        Question("sea", (), 1),
        Question("mountain", (), 2),
        Question("sea", (), 1, mode="dense"),
        Question("sea", (), 1, mode="hybrid"),
        Question("sea", (), 1, filters=Filters(date_from="2025-01-02")),
        Question("mountain", (), 1, filters=Filters(date_from="2025-01-02")),
    ]
    async with retrieving(counted) as retriever:
        found = await asyncio.gather(*map(retriever.retrieve, questions))
    # Nor what wants more: how deep a hybrid search looks decides what it finds.
    assert sorted(counted.calls) == [("dense", 1), ("hybrid", 1), ("hybrid", 2), ("hybrid", 2)]
    assert [ids(one.passages) for one in found] == [["0"], ["1", "2"], ["0"], ["0"], [], ["1"]]


@pytest.mark.parametrize(("made_by", "refused"), [("another", True), ("words", False), ("", False)])
async def test_vectors_of_another_encoder_are_not_compared(made_by: str, refused: bool) -> None:
    class MadeBy(Counted):
        async def search(self, *given: Any, **named: Any) -> Found:
            return msgspec.structs.replace(await super().search(*given, **named), encoder=made_by)

    async def served() -> str:
        return "words"

    made = MadeBy()
    made.add([Passage("0", "d0", "", "t", "2025-01-01", "The sea is wide.", 0)], np.eye(3, dtype=np.float32)[:1])
    async with retrieving(made, served=served) as retriever:
        if refused:
            with pytest.raises(WrongEncoder, match="encoded by another, and words is served"):
                await retriever.retrieve(Question("sea", (), 1))
        else:
            assert ids((await retriever.retrieve(Question("sea", (), 1))).passages) == ["0"]


async def test_a_hybrid_search_says_where_its_legs_have_each_hit() -> None:
    counted = store()
    async with retrieving(counted) as retriever:
        explained = await retriever.explain(Question("Zelminster sea", (), 3))
        ranks = {hit.passage.id: {leg: place.rank for leg, place in hit.legs.items()} for hit in explained.ranking.hits}
        assert ranks == {"0": {"dense": 1, "sparse": 1}, "1": {"dense": 2}, "2": {"dense": 3, "sparse": 2}}
        assert all(hit.legs["dense"].score == pytest.approx(hit.passage.score) for hit in explained.ranking.hits), (
            "of a question as it is the dense leg's score is the similarity"
        )
        (alone,) = (await retriever.explain(Question("sea", (), 1, mode="sparse"))).ranking.hits
        assert alone.legs == {}
    assert [mode for mode, _ in counted.calls] == ["hybrid", "sparse"]
