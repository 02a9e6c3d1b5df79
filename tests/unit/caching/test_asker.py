"""The use case with a memory: what is given again, to whom, and what is never kept."""

from __future__ import annotations

import asyncio
import datetime as dt
import tracemalloc
from collections.abc import AsyncGenerator

import numpy as np
import pytest

from app.asking import NOTHING_RELEVANT, AskEvent, AskRequest, Done, Sources, Text
from app.caching.answers import Answer, Answers
from app.caching.asker import CachingAsker
from app.caching.bounded import Bounds
from app.caching.scope import Defaults, Scopes, scope_of
from app.caching.version import KnownVersions
from app.errors import ModelServiceFailed, PharosError
from app.quota import ApiKey, Quota
from app.ranking.options import RankingOptions
from app.terms import CACHED, CacheUse, Terms
from contracts.types import CollectionVersion, ModelCard, Passage, Sampling, Timings, Usage
from tests.unit.caching.support import CARD, ROOMY, Clock, Encoder, Seen

PASSAGE = Passage("p", "d", "title", "a", "", "text", 0.5)
QUESTION = "who won the cup in 2015"
ANN, BOB = (Quota(name, ApiKey(key="a-secret-key")) for name in ("ann", "bob"))


class Slow:
    """An asker whose n-th answer is "answer n"; what it answers with can be told."""

    def __init__(self) -> None:
        self.asked = 0
        self.finish_reason = "stop"
        self.degraded = False
        self.fails: PharosError | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:  # noqa: ARG002
        self.asked += 1
        n = self.asked
        yield Sources((PASSAGE,), "hybrid", degraded=self.degraded)
        yield Text("answer ")
        await self.goes_on.wait()
        if self.fails is not None:
            raise self.fails
        yield Text(str(n))
        yield Done(self.finish_reason, Usage(10, 2), Timings(0.5, 0.1, 0.1, 0.1, 0.2, 0.3, 1.0))


class Setting:
    """A cache around it, for questions of `ann` unless another is named."""

    def __init__(self, *, similarity: float = 0.0, bounds: Bounds = ROOMY, settle_seconds: float = 0) -> None:
        self.asker = Slow()
        self.encoder = Encoder()
        self.seen = Seen()
        self.clock = Clock()
        self.version: CollectionVersion | None = CollectionVersion("v1")
        self.card = CARD
        self.answers = Answers(bounds, self.seen)
        versions = KnownVersions(
            self._version, ttl_seconds=0, settle_seconds=settle_seconds,
            changed=lambda: self.answers.clear("outdated"), clock=self.clock,
        )  # fmt: skip
        scopes = Scopes(versions, self._card, Defaults("hybrid", RankingOptions(), self_query=False))
        self.cache = CachingAsker(
            self.asker, self.answers, scopes, self.encoder, similarity=similarity, watch=self.seen
        )

    async def _version(self) -> CollectionVersion | None:
        return self.version

    async def _card(self) -> ModelCard:
        return self.card

    async def ask(
        self, question: str = QUESTION, *, by: Quota | None = ANN, use: CacheUse = CACHED, temperature: float = 0
    ) -> tuple[str, str | None]:
        """The answer's text, and how it was found."""
        events = [event async for event in self.events(question, by=by, use=use, temperature=temperature)]
        sources = events[0]
        assert isinstance(sources, Sources)
        return "".join(event.text for event in events if isinstance(event, Text)), sources.cached

    def events(
        self, question: str = QUESTION, *, by: Quota | None = ANN, use: CacheUse = CACHED, temperature: float = 0
    ) -> AsyncGenerator[AskEvent, None]:
        terms = Terms(quota=by, cache=use)
        return self.cache.ask(AskRequest("id", question, (), 5, Sampling(temperature=temperature), terms))


async def test_an_answer_is_given_again_with_what_it_was_made_from_and_without_its_cost() -> None:
    setting = Setting()
    first = [event async for event in setting.events()]
    again = [event async for event in setting.events()]
    assert again[:2] == [Sources((PASSAGE,), "hybrid", "exact"), Text("answer 1")]
    assert first[:3] == [Sources((PASSAGE,), "hybrid"), Text("answer "), Text("1")]
    done = again[2]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.usage) == ("stop", Usage(0, 0))
    timings = done.timings
    assert (timings.encode, timings.search, timings.prompt, timings.generate) == (None, None, None, None)
    assert timings.time_to_first_token is timings.rerank is None
    assert 0 <= timings.total < 60
    assert (setting.asker.asked, setting.seen.looked) == (1, {"miss": 1, "exact": 1})
    assert setting.encoder.calls == [], "no vector is needed to find the same words"


async def test_users_have_their_own_and_those_without_a_key_are_one() -> None:
    setting = Setting()
    for user in (ANN, BOB, None):
        assert (await setting.ask(by=user))[1] is None
        assert (await setting.ask(by=user))[1] == "exact"


async def test_other_models_or_documents_are_another_answer() -> None:
    setting = Setting()
    await setting.ask()
    setting.card = ModelCard("hash", 64, 256, "another", 4096, "simulated")
    assert await setting.ask() == ("answer 2", None)
    setting.version = CollectionVersion("v2")
    assert await setting.ask() == ("answer 3", None)
    assert setting.seen.left == {"outdated": 2}, "they could never be found again"


async def test_without_a_version_and_while_documents_change_nothing_is_looked_up() -> None:
    setting = Setting()
    for version in (None, CollectionVersion("v2", changing=True)):
        setting.version = version
        assert [(await setting.ask())[1] for _ in range(2)] == [None, None]
    assert setting.seen.looked == {"skipped": 4}
    assert setting.answers.kept.entries == 0


async def test_what_was_made_before_searches_have_caught_up_is_not_kept() -> None:
    setting = Setting(settle_seconds=30)
    await setting.ask()
    setting.clock.now = 29
    setting.asker.goes_on.clear()
    early = asyncio.ensure_future(setting.ask())
    await asyncio.sleep(0.01)
    setting.clock.now = 31
    setting.asker.goes_on.set()
    await early  # it began too early, however late it ended
    assert await setting.ask() == ("answer 3", None)
    assert (await setting.ask())[1] == "exact"


async def test_an_answer_that_was_being_made_when_the_documents_changed_is_not_of_the_new_ones() -> None:
    setting = Setting()
    setting.asker.goes_on.clear()
    old = asyncio.ensure_future(setting.ask())
    await asyncio.sleep(0.01)
    setting.version = CollectionVersion("v2")
    setting.asker.goes_on.set()
    await old
    assert await setting.ask() == ("answer 2", None)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("stop", True), ("length", True), (NOTHING_RELEVANT, True), ("abort", False), ("error", False)],
)
async def test_only_what_came_to_its_end_is_kept(reason: str, kept: bool) -> None:
    setting = Setting()
    setting.asker.finish_reason = reason
    await setting.ask()
    assert (await setting.ask())[1] == ("exact" if kept else None)


async def test_what_was_made_with_a_step_left_out_is_not_kept() -> None:
    setting = Setting()
    setting.asker.degraded = True
    await setting.ask()
    setting.asker.degraded = False
    assert (await setting.ask())[1] is None
    assert (await setting.ask())[1] == "exact"


async def test_an_error_is_the_callers_and_not_kept() -> None:
    setting = Setting()
    setting.asker.fails = ModelServiceFailed("broke")
    with pytest.raises(ModelServiceFailed):
        await setting.ask()
    setting.asker.fails = None
    assert await setting.ask() == ("answer 2", None)


@pytest.mark.parametrize("events", [1, 2, 3])
async def test_an_answer_that_is_left_before_its_end_is_not_kept(events: int) -> None:
    setting = Setting()
    stream = setting.events()
    for _ in range(events):
        await anext(stream)
    await stream.aclose()
    assert (await setting.ask())[1] is None


async def test_the_same_question_at_the_same_time_is_answered_twice_and_the_later_answer_is_kept() -> None:
    setting = Setting()
    setting.asker.goes_on.clear()
    both = [asyncio.ensure_future(setting.ask()) for _ in range(2)]
    await asyncio.sleep(0.01)
    setting.asker.goes_on.set()
    assert await asyncio.gather(*both) == [("answer 1", None), ("answer 2", None)]
    assert await setting.ask() == ("answer 2", "exact")
    assert setting.answers.kept.entries == 1


async def test_what_a_request_lets_it_do() -> None:
    setting = Setting()
    no_store, no_cache = CacheUse(reads=False, stores=False), CacheUse(reads=False)
    await setting.ask(use=no_store)
    assert await setting.ask(use=no_cache) == ("answer 2", None)
    assert await setting.ask() == ("answer 2", "exact")
    assert await setting.ask(use=no_cache) == ("answer 3", None)
    assert await setting.ask() == ("answer 3", "exact"), "made anew for all"
    assert setting.seen.looked == {"skipped": 3, "exact": 2}


async def test_what_is_drawn_at_random_is_not_kept() -> None:
    setting = Setting()
    for _ in range(2):
        assert (await setting.ask(temperature=0.5))[1] is None


async def test_about_the_same_words_find_it_too() -> None:
    setting = Setting(similarity=0.8)
    first = [event async for event in setting.events()]
    assert isinstance(first[-1], Done)
    # What looking for it took is added; the hash encoder's "seconds" are one to wait and one to encode.
    assert (first[-1].timings.queue, first[-1].timings.encode) == (1.5, 1.1)
    again = [event async for event in setting.events(f"{QUESTION} please")]
    assert again[:2] == [Sources((PASSAGE,), "hybrid", "semantic"), Text("answer 1")]
    assert isinstance(again[-1], Done)
    assert (again[-1].timings.queue, again[-1].timings.encode) == (1, 1)
    assert await setting.ask(f"{QUESTION} please", by=BOB) == ("answer 2", None)
    assert await setting.ask("quite another question") == ("answer 3", None)
    assert setting.seen.looked == {"miss": 3, "semantic": 1}


async def test_questions_that_name_other_numbers_are_never_about_the_same() -> None:
    setting = Setting(similarity=0.5)
    await setting.ask("who won the cup in 2015")
    assert (await setting.ask("who won the cup in 2016"))[1] is None
    assert (await setting.ask("who won the cup"))[1] is None
    assert (await setting.ask("who has won the cup in 2015"))[1] == "semantic"


async def test_what_has_left_the_cache_is_near_nothing() -> None:
    setting = Setting(similarity=0.5, bounds=Bounds(1, 1_000_000, 3600))
    await setting.ask("who won the cup")
    await setting.ask("where is the comet")
    assert (await setting.ask("who has won the cup"))[1] is None
    assert setting.seen.left["full"] == 2


async def test_an_answer_that_is_larger_than_the_cache_is_given_all_the_same() -> None:
    setting = Setting(similarity=0.5, bounds=Bounds(10, 100, 3600))
    for n in (1, 2):
        assert await setting.ask() == (f"answer {n}", None)


def test_the_bytes_it_says_are_about_what_it_takes() -> None:
    answers = Answers(Bounds(10_000, 1_000_000_000, 3600))
    defaults = Defaults("hybrid", RankingOptions(), self_query=False)
    vector = np.eye(384, dtype=np.float32)[0]

    def keep(n: int) -> None:
        """As each request makes them: a scope, passages and texts of its own."""
        passages = tuple(
            Passage(
                f"p{n}-{i}", f"d{n}-{i}", f"A title, number {n}", "topic", "2025-01-02", f"{n} {i} words " * 100, 0.5
            )
            for i in range(5)
        )
        asked = AskRequest(f"id-{n}", f"question {n}", (), 5, Sampling(), Terms(quota=ANN))
        scope = scope_of(asked, defaults, f"{'v' * 32}", CARD, dt.date(2026, 1, 1))
        answers.keep(scope, asked.question, Answer(f"{n} answers " * 40, passages, "hybrid", "stop"), vector)

    keep(0)
    tracemalloc.start()
    for n in range(1, 500):
        keep(n)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert answers.kept.bytes == pytest.approx(used, rel=0.35)
