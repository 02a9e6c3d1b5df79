"""Questions expanded by an LLM of scripted words, and searched over the store in memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from app.adapters.memory import MemoryStore
from app.batching import BatchLimits
from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    Overloaded,
    PharosError,
    PromptTooLong,
    QuotaExceeded,
    StoreDown,
)
from app.expanding import NOTHING_USABLE, Expander, ExpandingRetriever, ExpandLimits
from app.expansion import Expansion
from app.generation import GenerationPool
from app.merging import MergingEncoder
from app.quota import ApiKey, Quota
from app.retrieval import FUSED_HITS, Question, Retriever
from app.telemetry.metrics import KindWatch, Metrics
from app.telemetry.record import RequestRecord, current_record
from app.telemetry.wrappers import InstrumentedExpander
from contracts.ports import NO_FILTERS
from contracts.telemetry import Stage
from contracts.types import (
    Delta,
    Encoding,
    ExpandMode,
    Filters,
    FinishReason,
    Found,
    Frame,
    Passage,
    Prompt,
    PromptProblem,
    Queries,
    SearchMode,
    Usage,
)
from observability.tracing import Tracing

QUESTION = "Who won the cup?"
PHRASINGS = ["Which team took the trophy?", "Who got the cup?", "Whose is it?"]
LISTED = "\n".join(f"{i}. {text}" for i, text in enumerate(PHRASINGS, start=1))


@dataclass
class Scripted:
    """A Generator that says `words`, a few characters a frame. With `holds` it says nothing more until it is told to
    `go_on`; `fails` with an error instead, of the batch or (PromptProblem) of each prompt."""

    words: str | Callable[[Prompt], str] = LISTED
    finish: FinishReason = "stop"
    fails: PharosError | PromptProblem | None = None
    holds: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    given: list[list[Prompt]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    said: int = 0

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        self.given.append(list(prompts))
        if isinstance(self.fails, PharosError):
            raise self.fails
        if self.fails is not None:
            yield Frame(tuple(Delta(p.request_id, finish_reason="error", error=self.fails) for p in prompts))
            return
        yield Frame()
        self.began.set()
        if self.holds:
            await self.go_on.wait()
        texts = {p.request_id: self.words if isinstance(self.words, str) else self.words(p) for p in prompts}
        for at in range(0, max(map(len, texts.values()), default=0), 4):
            await asyncio.sleep(0)
            if not texts.keys() - set(self.aborted):
                break
            self.said = at
            yield Frame(tuple(Delta(id, text[at : at + 4], 1) for id, text in texts.items()))
        yield Frame(tuple(Delta(id, "", 0, self.finish, Usage(400, 200)) for id in texts))

    async def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids
        self.go_on.set()

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for batch in self.given for prompt in batch]


class Setting:
    """An expander over a scripted LLM; `skipped` are the reasons it gave."""

    def __init__(self, scripted: Scripted | None = None, mode: ExpandMode = "off", **limits: Any) -> None:
        self.registry = CollectorRegistry()
        self.scripted = scripted or Scripted()
        self.skipped: list[str] = []
        self.pool = GenerationPool(
            self.scripted, BatchLimits(16, 64), watch=KindWatch(Metrics(self.registry), Stage.GENERATE)
        )
        self.expander = Expander(self.pool, mode=mode, limits=ExpandLimits(**limits), skipped=self.skipped.append)

    async def expansion(self, question: Question) -> Expansion | None:
        async with self.pool:
            expanded = await self.expander.expand(question)
        return None if expanded is None else expanded.expansion


def asked(expand: ExpandMode | None = None, text: str = QUESTION, **more: Any) -> Question:
    return Question(text, (), 3, expand=expand, **more)


@pytest.mark.parametrize(
    ("configured", "wanted", "done"),
    [
        ("off", None, None),
        ("off", "off", None),
        ("off", "multi_query", "multi_query"),
        ("hyde", "off", None),
        ("hyde", None, "hyde"),
        ("multi_query", "hyde", "hyde"),
    ],
)
async def test_a_request_has_the_last_word(configured: ExpandMode, wanted: ExpandMode | None, done: str | None) -> None:
    setting = Setting(mode=configured)
    expansion = await setting.expansion(asked(wanted))
    assert (expansion.mode if expansion else None) == done
    assert bool(setting.scripted.given) == (done is not None)


async def test_a_search_by_words_alone_has_no_use_for_passages() -> None:
    setting = Setting(mode="hyde")
    assert await setting.expansion(asked(mode="sparse")) is None
    with pytest.raises(InvalidRequest, match="by words alone"):
        await setting.expander.expand(asked("hyde", mode="sparse"))
    assert setting.scripted.given == []
    phrased = Setting()
    assert await phrased.expansion(asked("multi_query", mode="sparse")) is not None


async def test_phrasings_are_asked_for_in_one_short_prompt() -> None:
    setting = Setting(phrasings=2, tokens=33)
    assert await setting.expansion(asked("multi_query")) == Expansion("multi_query", tuple(PHRASINGS[:2]))
    (prompt,) = setting.scripted.prompts
    assert QUESTION in prompt.messages[-1].content
    assert (prompt.sampling.max_tokens, prompt.sampling.temperature) == (33, 0.0)


async def test_what_comes_after_the_last_phrasing_is_not_waited_for() -> None:
    setting = Setting(Scripted(LISTED + "\n" + "and on and on " * 100), phrasings=3)
    assert await setting.expansion(asked("multi_query")) == Expansion("multi_query", tuple(PHRASINGS))
    assert setting.scripted.aborted == [setting.scripted.prompts[0].request_id]
    assert setting.scripted.said < len(LISTED) + 100


async def test_a_phrasing_that_was_cut_is_left_out_unless_it_is_the_only_one() -> None:
    setting = Setting(Scripted("1. Which team?\n2. Whose cu", "length"))
    assert await setting.expansion(asked("multi_query")) == Expansion("multi_query", ("Which team?",))
    setting = Setting(Scripted("1. Which te", "length"))
    assert await setting.expansion(asked("multi_query")) == Expansion("multi_query", ("Which te",))


async def test_one_passage_is_the_likeliest_and_several_are_sampled() -> None:
    one = Setting(Scripted("Tervola won\nthe cup."))
    assert await one.expansion(asked("hyde")) == Expansion("hyde", ("Tervola won the cup.",))
    assert [(p.sampling.temperature, p.sampling.seed) for p in one.scripted.prompts] == [(0.0, None)]
    several = Setting(Scripted(lambda prompt: f"Team {(prompt.sampling.seed or 0) % 2} won."), passages=3)
    assert await several.expansion(asked("hyde")) == Expansion("hyde", ("Team 0 won.", "Team 1 won."))
    assert [p.sampling.seed for p in several.scripted.prompts] == [0, 1, 2]
    assert {p.sampling.temperature for p in several.scripted.prompts} == {0.7}
    assert len(several.scripted.given) == 1, "they share a call"


async def test_questions_at_the_same_time_share_a_call() -> None:
    setting = Setting()
    async with setting.pool:
        await asyncio.gather(*(setting.expander.expand(asked("multi_query", f"question {i}")) for i in range(8)))
    assert [len(batch) for batch in setting.scripted.given] == [8]


@pytest.mark.parametrize("mode", ["multi_query", "hyde"])
async def test_an_llm_that_says_nothing_usable_is_counted(mode: ExpandMode) -> None:
    setting = Setting(Scripted(" \n...\n"))
    assert await setting.expansion(asked(mode)) == Expansion(mode, (), NOTHING_USABLE)
    assert setting.skipped == [NOTHING_USABLE]


FAILURES: list[tuple[PharosError | PromptProblem, type[PharosError]]] = [
    (ModelServiceDown("gone"), ModelServiceDown),
    (ModelServiceFailed("broken"), ModelServiceFailed),
    (Overloaded("full"), Overloaded),
    (PromptProblem(413, "prompt_too_long", "too long"), PromptTooLong),
    (PromptProblem(400, "invalid_request", "no"), InvalidRequest),
    (PromptProblem(500, "internal", "no"), ModelServiceFailed),
]


@pytest.mark.parametrize("mode", ["multi_query", "hyde"])
@pytest.mark.parametrize(("failure", "kind"), FAILURES)
async def test_a_failure_is_survived_counted_and_said_once_unless_the_question_insists(
    failure: PharosError | PromptProblem, kind: type[PharosError], mode: ExpandMode, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting(Scripted(fails=failure), mode, passages=2)
    with caplog.at_level(logging.WARNING):
        async with setting.pool:
            for _ in range(3):
                expanded = await setting.expander.expand(asked())
                assert expanded is not None
                assert expanded.expansion == Expansion(mode, (), kind.code)
            with pytest.raises(kind):
                await setting.expander.expand(asked(mode))
            setting.scripted.fails = None
            assert (await setting.expander.expand(asked(mode))) is not None
            setting.scripted.fails = failure
            await setting.expander.expand(asked())
    assert setting.skipped == [kind.code] * 4
    said = [record.message for record in caplog.records if "expanding them fails" in record.message]
    assert len(said) == 2, "each time that it begins"
    assert said[0] == f"questions are searched as they are, since expanding them fails: {failure.detail}"


def a_key(tokens_per_minute: int) -> Quota:
    return Quota("team", ApiKey(key=SecretStr("a-key-of-a-team"), tokens_per_minute=tokens_per_minute))


async def test_a_key_without_tokens_left_searches_as_it_is() -> None:
    quota = a_key(1)
    quota.use_tokens(100)
    setting = Setting(mode="hyde")
    async with setting.pool:
        expanded = await setting.expander.expand(asked(quota=quota))
        assert expanded is not None
        assert expanded.expansion == Expansion("hyde", (), QuotaExceeded.code)
        with pytest.raises(QuotaExceeded):
            await setting.expander.expand(asked("hyde", quota=quota))


async def test_its_tokens_are_charged() -> None:
    quota = a_key(1000)
    await Setting().expansion(asked("hyde", quota=quota))
    with pytest.raises(QuotaExceeded):  # 600 are gone
        quota.reserve_tokens(900)
    quota.reserve_tokens(300)


@pytest.mark.parametrize("mode", ["multi_query", "hyde"])
async def test_an_llm_that_is_too_slow_is_not_waited_for(mode: ExpandMode) -> None:
    setting = Setting(Scripted(holds=True), mode, seconds=0.05)
    async with setting.pool:
        expanded = await setting.expander.expand(asked(deadline=time.monotonic() + 60))
        assert expanded is not None
        assert expanded.expansion == Expansion(mode, (), DeadlineExceeded.code)
        assert expanded.expand_seconds >= 0.05
    assert setting.skipped == [DeadlineExceeded.code]
    assert setting.scripted.aborted == [prompt.request_id for prompt in setting.scripted.prompts]


async def test_who_insists_waits_until_the_deadline_of_the_request() -> None:
    setting = Setting(Scripted(holds=True), seconds=0.01)
    async with setting.pool:
        asking = asyncio.create_task(setting.expander.expand(asked("hyde", deadline=time.monotonic() + 60)))
        await setting.scripted.began.wait()
        await asyncio.sleep(0.05)
        setting.scripted.go_on.set()
        expanded = await asking
    assert expanded is not None
    assert expanded.expansion.texts


@pytest.mark.parametrize("insists", [True, False])
async def test_a_request_whose_own_time_runs_out_is_told(insists: bool) -> None:
    setting = Setting(Scripted(holds=True), "hyde")
    async with setting.pool:
        with pytest.raises(DeadlineExceeded):
            await setting.expander.expand(asked("hyde" if insists else None, deadline=time.monotonic() + 0.05))
    assert setting.skipped == []


@pytest.mark.parametrize("mode", ["multi_query", "hyde"])
async def test_who_leaves_is_aborted(mode: ExpandMode) -> None:
    setting = Setting(Scripted(holds=True), passages=2)
    async with setting.pool:
        asking = asyncio.create_task(setting.expander.expand(asked(mode)))
        await setting.scripted.began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)
    assert sorted(setting.scripted.aborted) == sorted(prompt.request_id for prompt in setting.scripted.prompts)


async def test_the_record_of_a_request_knows_the_time_and_takes_no_tokens_for_the_answers() -> None:
    setting = Setting()
    record = RequestRecord("an-id", "POST", "/ask", asks=True, span=Tracing().begin("POST /ask"))
    token = current_record.set(record)
    instrumented = InstrumentedExpander(setting.expander, with_texts=False)
    async with setting.pool:
        assert await instrumented.expand(asked()) is None
        assert record.stages == []
        await instrumented.expand(asked("multi_query"))
        assert current_record.get() is record
        setting.scripted.fails = Overloaded("full")
        with pytest.raises(Overloaded):
            await instrumented.expand(asked("multi_query"))
    current_record.reset(token)
    assert [stage for stage, _, _ in record.stages] == [Stage.QUEUE, Stage.EXPAND] * 2
    assert (record.first_token, record.tokens, record.usage, record.finish_reason) == (None, 0, None, None)
    assert record.expansion is None


async def test_what_was_found_is_noted_only_where_texts_may_be() -> None:
    setting = Setting()
    record = RequestRecord("an-id", "POST", "/ask", asks=True, span=Tracing().begin("POST /ask"))
    token = current_record.set(record)
    async with setting.pool:
        await InstrumentedExpander(setting.expander, with_texts=True).expand(asked("multi_query"))
    current_record.reset(token)
    assert record.fields()["expansion"] == tuple(PHRASINGS)


AXES = {"cup": 0, "trophy": 1, "team": 2}
TEXTS = ["The cup was won.", "The trophy went north.", "A team came home.", "Oil fell."]


class Words:
    """An Encoder that knows three words; a text has an axis for the first of them that it has."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        self.calls.append(len(texts))
        rows = [next((axis for word, axis in AXES.items() if word in text.lower()), 3) for text in texts]
        return Encoding(np.eye(4, dtype=np.float32)[rows], (1,) * len(texts))


class Counted(MemoryStore):
    """Remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self.fails: PharosError | None = None

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
        self.calls.append(queries.texts)
        if self.fails is not None:
            raise self.fails
        return await super().search(queries, topics, limit, mode=mode, filters=filters, with_vectors=with_vectors)


@dataclass
class Searching:
    """A whole retriever that expands."""

    retriever: ExpandingRetriever
    inner: Retriever
    setting: Setting
    store: Counted
    encoder: Words


@asynccontextmanager
async def searching(scripted: Scripted, *, expand: ExpandMode = "off", **options: Any) -> AsyncIterator[Searching]:
    setting, store, words = Setting(scripted, expand), Counted(), Words()
    passages = [Passage(f"p{i}", f"d{i}", "", "t", "", text, 0) for i, text in enumerate(TEXTS)]
    store.add(passages, (await Words().encode(TEXTS)).vectors)
    limits = BatchLimits(16, 64, 1)
    encoder = MergingEncoder(words, slice_texts=16, limits=limits)
    given: dict[str, Any] = {"min_score": -1.0, "mode": "dense", **options}
    inner = Retriever(encoder, store, search_limits=limits, **given)
    async with setting.pool, encoder.batcher, inner:
        yield Searching(ExpandingRetriever(inner, setting.expander), inner, setting, store, words)


TROPHY = "Which team took it home?\nWho has the trophy?"


async def test_phrasings_are_encoded_and_searched_in_one_call_each_and_fused() -> None:
    async with searching(Scripted(TROPHY)) as found:
        plain = await found.retriever.retrieve(asked("off"))
        expanded = await found.retriever.retrieve(asked("multi_query"))
        assert found.encoder.calls == [1, 3]
        assert found.store.calls == [(QUESTION,), (QUESTION, "Which team took it home?", "Who has the trophy?")]
    assert [passage.id for passage in plain.passages] == ["p0", "p1", "p2"]
    assert plain.expand_seconds is None
    # Each is first once; p0 is second twice, p1 and p2 third or worse.
    assert expanded.passages[0].id == "p0"
    assert {passage.id for passage in expanded.passages} == {"p0", "p1", "p2"}
    # Found by other words, and as far from the question as ever.
    assert [passage.score for passage in expanded.passages] == [1.0, 0.0, 0.0]
    assert expanded.best_score == 1.0
    assert expanded.expand_seconds is not None
    assert expanded.queue_seconds >= 0


async def test_what_only_a_phrasing_finds_is_relevant_by_the_question_itself() -> None:
    async with searching(Scripted(TROPHY), min_score=0.5) as found:
        expanded = await found.retriever.retrieve(asked("multi_query"))
    assert [passage.id for passage in expanded.passages] == ["p0"]


async def test_useless_phrasings_take_no_place_from_what_is_relevant() -> None:
    async with searching(Scripted("Which trophy?\nThat trophy?"), min_score=0.5) as found:
        explained = await found.retriever.explain(replace(asked("multi_query"), limit=1))
        expanded = await found.retriever.retrieve(replace(asked("multi_query"), limit=1))
    # By their places p1 is first, but it is not relevant to the question itself.
    assert [hit.passage.id for hit in explained.ranking.hits] == ["p1"]
    assert [passage.id for passage in expanded.passages] == ["p0"]


async def test_coverage_is_that_of_the_questions_words() -> None:
    async with searching(
        Scripted("Tell of oil.\nIs oil cheap?"), mode="sparse", min_score=2.0, min_coverage=0.5
    ) as found:
        hits = (await found.retriever.explain(asked("multi_query", "Is petrol cheap? Oil?"))).ranking.hits
        assert {hit.passage.id: hit.coverage for hit in hits} == {"p3": pytest.approx(1 / 3)}
        assert (await found.retriever.retrieve(asked("multi_query", "Is petrol cheap? Oil?"))).passages == ()


async def test_a_passage_that_was_made_up_moves_the_search_and_not_the_scores() -> None:
    async with searching(Scripted("A trophy is a thing.")) as found:
        explained = await found.retriever.explain(replace(asked("hyde"), limit=2))
        assert found.encoder.calls == [2]
        assert found.store.calls == [(QUESTION,)]
    hits = explained.ranking.hits
    assert [(hit.passage.id, hit.passage.score) for hit in hits] == [("p0", 1.0), ("p1", 0.0)]
    assert [hit.score for hit in hits] == pytest.approx([2**-0.5] * 2)
    assert explained.expansion == Expansion("hyde", ("A trophy is a thing.",))
    assert explained.ranking.fused == ()


async def test_a_search_shows_what_each_phrasing_found() -> None:
    async with searching(Scripted(TROPHY), mode="hybrid") as found:
        explained = await found.retriever.explain(replace(asked("multi_query"), limit=2))
        assert len(found.store.calls) == 1
    ranking = explained.ranking
    assert len(ranking.hits) == 2
    assert [hits[0].passage.id for hits in ranking.fused] == ["p0", "p2", "p1"]
    assert [hits[0].legs["dense"].rank for hits in ranking.fused] == [1, 1, 1], "each by its own legs"
    assert ranking.hits[0].legs["dense"].score == 1.0, "the question's own, where it was fused"
    assert explained.expand_seconds is not None


async def test_plain_and_expanded_questions_share_a_call_and_keep_their_own() -> None:
    async with searching(Scripted(TROPHY)) as found:
        plain, several, made_up = await asyncio.gather(
            found.inner.retrieve(replace(asked(), limit=FUSED_HITS)),
            found.inner.retrieve(
                replace(asked(), limit=FUSED_HITS, expansion=Expansion("multi_query", ("A trophy?",)))
            ),
            found.inner.retrieve(replace(asked(), limit=FUSED_HITS, expansion=Expansion("hyde", ("A team.",)))),
        )
        assert [len(texts) for texts in found.store.calls] == [4]
    assert [p.id for p in plain.passages][:3] == ["p0", "p1", "p2"]
    assert [p.score for p in several.passages][:3] == [1.0, 0.0, 0.0]
    assert [p.id for p in several.passages][:2] == ["p0", "p1"]
    assert [p.id for p in made_up.passages][:2] == ["p0", "p2"]


async def test_a_failing_llm_leaves_the_search_as_it_was() -> None:
    async with searching(Scripted(fails=ModelServiceDown("gone")), expand="multi_query") as found:
        failed = await found.retriever.explain(asked())
        plain = await found.retriever.explain(asked("off"))
    assert failed.ranking.hits == plain.ranking.hits
    assert failed.expansion == Expansion("multi_query", (), "model_service_down")
    assert plain.expansion is None


async def test_a_failing_store_is_no_failure_of_the_llm() -> None:
    async with searching(Scripted()) as found:
        found.store.fails = StoreDown("away")
        with pytest.raises(StoreDown):
            await found.retriever.retrieve(asked("multi_query"))
    assert found.setting.skipped == []


async def test_what_is_found_without_the_llm_that_failed_is_not_what_would_be_found_again() -> None:
    async with searching(Scripted(fails=ModelServiceDown("gone")), expand="multi_query") as found:
        assert (await found.retriever.retrieve(asked())).degraded
        found.setting.scripted.fails = None
        assert not (await found.retriever.retrieve(asked())).degraded
