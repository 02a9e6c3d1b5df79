"""Reranking in the gateway: when, which hits, in what order, together with whom, and what happens where it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from app.adapters.memory import MemoryStore
from app.batching import BatchLimits
from app.errors import DeadlineExceeded, InvalidRequest, ModelServiceDown, NoReranker, Overloaded, PharosError
from app.merging import MergingEncoder, MergingReranker
from app.replicated import ReplicatedReranker
from app.reranking import Reranking, RerankingRetriever
from app.retrieval import Question, Retriever
from app_llm.simulated import HashEncoder, OverlapReranker
from contracts.types import Hit, Pair, Passage, Scores
from tests.support.model_services import Fleet

ASKED = "cup final winner"


def passage(number: int, text: str, title: str = "") -> Passage:
    return Passage(f"p{number}", f"d{number}", title, "sport", "", text, 0.5)


HITS = [
    Hit(passage(0, "oil fell"), 0.9),
    Hit(passage(1, "the final"), 0.8),
    Hit(passage(2, "winner of the cup final"), 0.7),
    Hit(passage(3, "the cup", title="Final"), 0.6),
    Hit(passage(4, "a final"), 0.5),
]


class Recorded(OverlapReranker):
    """Remembers its calls, and fails them while `fails` is set."""

    def __init__(self) -> None:
        self.calls: list[list[Pair]] = []
        self.fails: PharosError | None = None

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        self.calls.append(list(pairs))
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return await super().rerank(pairs, timeout_seconds=timeout_seconds)


class Setting:
    """A `Reranking` over a reranker that can be told to fail. `served` may be a failure too."""

    def __init__(self, served: str | PharosError = "overlap", **settings: object) -> None:
        self.served = served
        self.skipped: list[str] = []
        self.reranker = Recorded()
        self.merging = MergingReranker(self.reranker, slice_pairs=64, limits=BatchLimits(64, 64, batch_cost=64))
        self.reranking = Reranking(self.merging, self._name, skipped=self.skipped.append, **settings)  # type: ignore[arg-type]

    async def _name(self) -> str:
        if isinstance(self.served, PharosError):
            raise self.served
        return self.served

    async def order(self, limit: int, hits: Sequence[Hit] = HITS, **more: object) -> list[str] | None:
        async with self.merging.batcher:
            reranked = await self.reranking.reranked(ASKED, hits, limit, **more)  # type: ignore[arg-type]
        return None if reranked is None else [hit.passage.id for hit in reranked.hits]


async def test_the_best_come_first_and_equals_keep_the_order_of_the_search() -> None:
    # Overlaps: 0, 1/3, 1, 2/3 (with its heading), 1/3.
    assert await Setting().order(5) == ["p2", "p3", "p1", "p4", "p0"]
    assert await Setting().order(2) == ["p2", "p3"]
    assert await Setting().order(3, []) == []


async def test_only_the_first_candidates_are_scored_and_the_others_follow() -> None:
    setting = Setting(candidates=2)
    assert await setting.order(4) == ["p1", "p0", "p2", "p3"]
    assert setting.reranker.calls == [[Pair(ASKED, "oil fell"), Pair(ASKED, "the final")]]


async def test_the_order_of_the_search_counts_as_much_as_it_is_told_to() -> None:
    assert await Setting().order(5) == ["p2", "p3", "p1", "p4", "p0"]
    assert await Setting(prior=2.5).order(5) == ["p2", "p1", "p3", "p4", "p0"]


async def test_the_score_of_a_hit_is_the_rerankers_and_the_passages_stays() -> None:
    setting = Setting(candidates=3)
    async with setting.merging.batcher:
        reranked = await setting.reranking.reranked(ASKED, HITS, 5)
    assert reranked is not None
    assert [round(hit.score, 3) for hit in reranked.hits] == [1.0, 0.333, 0.0, 0.0, 0.0]
    assert {hit.passage.score for hit in reranked.hits} == {0.5}


@pytest.mark.parametrize(
    ("policy", "served", "asked", "wanted"),
    [
        ("auto", "overlap", None, True),
        ("auto", "overlap", True, True),
        ("auto", "overlap", False, False),
        ("auto", "", None, False),
        ("auto", "", False, False),
        ("auto", "", True, "no reranker is served"),
        ("off", "overlap", None, False),
        ("off", "overlap", False, False),
        ("off", "overlap", True, "switched off"),
        ("auto", ModelServiceDown("gone"), None, None),
    ],
)
async def test_when(policy: str, served: str | PharosError, asked: bool | None, wanted: bool | str | None) -> None:
    reranking = Setting(served, policy=policy).reranking
    if not isinstance(wanted, str):
        assert await reranking.wanted(asked) is wanted
    else:
        with pytest.raises(InvalidRequest, match=wanted):
            await reranking.wanted(asked)


async def test_one_that_insists_is_told_when_nobody_can_say_what_is_served() -> None:
    with pytest.raises(ModelServiceDown):
        await Setting(ModelServiceDown("gone")).reranking.wanted(True)


@pytest.mark.parametrize("failure", [ModelServiceDown("gone"), Overloaded("full"), NoReranker("none")])
async def test_a_failure_is_survived_counted_and_said_once(
    failure: PharosError, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting()
    setting.reranker.fails = failure
    with caplog.at_level(logging.WARNING):
        async with setting.merging.batcher:
            for _ in range(3):
                assert await setting.reranking.reranked(ASKED, HITS, 2) is None
            with pytest.raises(type(failure)):
                await setting.reranking.reranked(ASKED, HITS, 2, must=True)
    assert setting.skipped == [failure.code] * 3
    assert [record.message for record in caplog.records if "reranking fails" in record.message] == [
        f"passages keep the order of the search, since reranking fails: {failure.detail}"
    ]


async def test_a_request_that_has_no_time_left_is_not_saved_by_the_order_of_the_search() -> None:
    setting = Setting()
    with pytest.raises(DeadlineExceeded):
        await setting.order(2, deadline=time.monotonic() - 1)
    assert setting.skipped == []


async def test_one_whose_queue_is_too_long_for_its_time_keeps_the_order_of_the_search() -> None:
    setting = Setting()
    setting.reranker.fails = DeadlineExceeded("the queue is longer")
    later = time.monotonic() + 60
    async with setting.merging.batcher:
        assert await setting.reranking.reranked(ASKED, HITS, 2, later) is None
        with pytest.raises(DeadlineExceeded):
            await setting.reranking.reranked(ASKED, HITS, 2, later, must=True)
    assert setting.skipped == ["deadline_exceeded"]


async def test_questions_that_come_together_are_one_call_and_keep_their_own_scores() -> None:
    setting = Setting()
    asked = [f"text number {i}" for i in range(6)]
    hits = [Hit(passage(i, f"number {i}"), 0.5) for i in range(6)]
    async with setting.merging.batcher:
        answers = await asyncio.gather(*(setting.reranking.reranked(question, hits, 1) for question in asked))
    assert [answer.hits[0].passage.id for answer in answers if answer is not None] == [f"p{i}" for i in range(6)]
    assert [len(call) for call in setting.reranker.calls] == [36]


async def test_a_call_goes_to_another_replica_where_the_first_one_is_gone() -> None:
    fleet = Fleet(["a", "b"])
    async with fleet.replicas:
        fleet.first("a").fails = ModelServiceDown("gone")
        answer = await ReplicatedReranker(fleet.replicas).rerank([Pair("q", "t")] * 3, timeout_seconds=5)
        assert answer.scores.tolist() == [0.5] * 3
        assert [len(fleet.services[name].reranked) for name in "ab"] == [1, 1]
        assert all(texts == 0 for _, _, texts in fleet.outstanding)


async def test_a_replica_without_a_reranker_has_not_failed() -> None:
    fleet = Fleet(["a", "b"])
    async with fleet.replicas:
        fleet.first("a").fails = NoReranker("none here")
        with pytest.raises(NoReranker):
            await ReplicatedReranker(fleet.replicas).rerank([Pair("q", "t")])
        assert fleet["a"].failures == 0


TEXTS = [
    "cup final",
    "the cup final had a winner",
    "a cup of tea",
    "the final countdown",
    "oil fell again",
]


@asynccontextmanager
async def retriever(setting: Setting, min_score: float = -1.0) -> AsyncIterator[RerankingRetriever]:
    """Over texts in memory and hashed words."""
    encoder = MergingEncoder(HashEncoder(1024), slice_texts=8, limits=BatchLimits(8, 8))
    store = MemoryStore()
    passages = [passage(i, text) for i, text in enumerate(TEXTS)]
    store.add(passages, (await HashEncoder(1024).encode(TEXTS)).vectors)
    limits = BatchLimits(8, 8)
    inner = Retriever(encoder, store, search_limits=limits, min_score=min_score, min_coverage=1.0, mode="dense")
    async with encoder.batcher, inner, setting.merging.batcher:
        yield RerankingRetriever(inner, setting.reranking)


async def test_more_than_is_wanted_is_searched_for_and_the_best_are_returned() -> None:
    setting = Setting(candidates=4)
    async with retriever(setting) as retrieving:
        plain = await retrieving.retrieve(Question(ASKED, (), 1, rerank=False))
        reranked = await retrieving.retrieve(Question(ASKED, (), 1))
    assert [p.id for p in plain.passages] == ["p0"]
    assert [p.id for p in reranked.passages] == ["p1"]
    assert [len(call) for call in setting.reranker.calls] == [4]
    assert plain.rerank_seconds is None
    assert reranked.rerank_seconds is not None
    assert reranked.best_score == plain.best_score, "the cut is by similarity, before the reranker"


async def test_what_is_not_relevant_is_not_reranked() -> None:
    setting = Setting()
    async with retriever(setting, min_score=0.2) as retrieving:
        found = await retrieving.retrieve(Question(ASKED, (), 5))
        assert 0 < len(found.passages) < len(TEXTS)
        assert [len(call) for call in setting.reranker.calls] == [len(found.passages)]
        nothing = await retrieving.retrieve(Question("nobody knows", (), 5))
    assert nothing.passages == ()
    assert len(setting.reranker.calls) == 1


async def test_what_was_not_reranked_since_that_failed_says_so() -> None:
    setting = Setting(candidates=4)
    async with retriever(setting) as retrieving:
        for rerank in (None, False):
            assert not (await retrieving.retrieve(Question(ASKED, (), 1, rerank=rerank))).degraded
        setting.reranker.fails = Overloaded("full")
        assert (await retrieving.retrieve(Question(ASKED, (), 1))).degraded
        setting.served = ModelServiceDown("gone")
        assert (await retrieving.retrieve(Question(ASKED, (), 1))).degraded
        setting.served = ""
        assert not (await retrieving.retrieve(Question(ASKED, (), 1))).degraded


async def test_a_search_shows_what_went_in_and_what_came_out() -> None:
    setting = Setting(candidates=5)
    async with retriever(setting) as retrieving:
        explained = await retrieving.explain(Question(ASKED, (), 2))
        setting.reranker.fails = Overloaded("full")
        plain = await retrieving.explain(Question(ASKED, (), 2))
    assert explained.reranked is not None
    assert len(explained.ranking.hits) == 5
    assert explained.reranked.hits[0].passage.id == "p1"
    assert len(explained.reranked.hits) == 2
    assert plain.reranked is None
    assert len(plain.ranking.hits) == 2
    assert plain.ranking.hits == explained.ranking.hits[:2]
