"""The use case: one question in, a stream of events out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from app.generation import GenerationPool
from app.grounding import GroundUseCase
from app.prompting import NOT_IN_DOCUMENTS
from app.ranking.options import RankingOptions
from app.retrieval import Question, RetrieveUseCase
from app.terms import Terms
from app.topics import TopicDirectory
from contracts.ports import NO_FILTERS
from contracts.types import ExpandMode, Filters, Passage, Sampling, SearchMode, Timings, Usage

TOP_K = 5
"""Passages to look at when a request does not say."""

CacheHit = Literal["exact", "semantic"]
"""How an earlier answer was found: by the same words, or by words that mean about the same."""

NOTHING_RELEVANT = "nothing_relevant"
"""The finish reason of an answer for which the LLM was not called."""


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question that has been validated."""

    request_id: str
    question: str
    topics: tuple[str, ...]
    top_k: int
    sampling: Sampling
    terms: Terms = field(default_factory=Terms)
    mode: SearchMode | None = None
    filters: Filters = NO_FILTERS
    rerank: bool | None = None
    ranking: RankingOptions | None = None
    self_query: bool | None = None
    expand: ExpandMode | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """The passages the answer is made from; passage i is cited as [i + 1]. Always the first event. `mode` is how they
    were really searched; `cached` is how this answer was found, where an earlier one is given again. `degraded` is the
    `Retrieved`'s."""

    passages: tuple[Passage, ...]
    mode: SearchMode
    cached: CacheHit | None = None
    degraded: bool = False


class Text(msgspec.Struct, frozen=True, gc=False):
    """The next piece of the answer. Made once per token: a Struct costs a fifth of a frozen dataclass."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last event. `finish_reason` is the engine's, or NOTHING_RELEVANT."""

    finish_reason: str
    usage: Usage
    timings: Timings


AskEvent = Sources | Text | Done


class AskUseCase(Protocol):
    """What answers from the documents: `Asker`, or a wrapper around it."""

    def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]: ...


class Asker:
    """Answers questions from the documents. One instance serves every request."""

    def __init__(
        self, retriever: RetrieveUseCase, grounding: GroundUseCase, generation: GenerationPool, topics: TopicDirectory
    ) -> None:
        self._retriever = retriever
        self._grounding = grounding
        self._generation = generation
        self._topics = topics

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """`Sources`, then `Text`…, then `Done`. Nothing is yielded before the engine has accepted the prompt, so an
        error before it is a plain exception. Closing the generator, at any point, stops the work.

        Raises PharosError.
        """
        if request.topics:
            await self._topics.require(request.topics)
        terms = request.terms
        retrieved = await self._retriever.retrieve(
            Question(
                request.question,
                request.topics,
                request.top_k,
                terms.deadline,
                request.mode,
                request.filters,
                request.rerank,
                request.ranking,
                request.self_query,
                expand=request.expand,
                quota=terms.quota,
            )
        )
        if not retrieved.passages:
            yield Sources((), retrieved.mode, degraded=retrieved.degraded)
            yield Text(f"{NOT_IN_DOCUMENTS.capitalize()}.")
            timings = Timings(
                queue=retrieved.queue_seconds,
                encode=retrieved.encode_seconds,
                search=retrieved.search_seconds,
                prompt=None,
                time_to_first_token=None,
                generate=None,
                total=time.monotonic() - terms.arrived,
                rerank=retrieved.rerank_seconds,
                expand=retrieved.expand_seconds,
                arrange=retrieved.arrange_seconds,
            )
            yield Done(NOTHING_RELEVANT, Usage(0, 0), timings)
            return
        found = time.monotonic()
        prompt, passages = await self._grounding.ground(
            request.question, retrieved.passages, request.sampling, retrieved.prompt_order
        )
        handed_over = time.monotonic()
        opened = await self._generation.open(prompt, terms)
        stream = opened.value
        try:
            yield Sources(passages, retrieved.mode, degraded=retrieved.degraded)
            while True:
                delta = await stream.read()
                if delta.text:
                    yield Text(delta.text)
                if delta.finish_reason is not None:
                    now = time.monotonic()
                    timings = Timings(
                        queue=retrieved.queue_seconds + opened.queued_seconds,
                        encode=retrieved.encode_seconds,
                        search=retrieved.search_seconds,
                        prompt=handed_over - found,
                        time_to_first_token=stream.first_token_after(terms.arrived),
                        generate=now - handed_over - opened.queued_seconds,
                        total=now - terms.arrived,
                        rerank=retrieved.rerank_seconds,
                        expand=retrieved.expand_seconds,
                        arrange=retrieved.arrange_seconds,
                    )
                    yield Done(delta.finish_reason, delta.usage or Usage(0, 0), timings)
                    return
        finally:
            self._generation.leave(stream)
