"""A retriever's hits through the steps of app/ranking, with what those need from outside: store, day and encoder.

It is the outermost: what it hands over is what the model reads.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from app.errors import DeadlineExceeded, InvalidRequest, StoreDown, StoreFailed
from app.query_rules import narrowing
from app.ranking.answerability import CONSIDERED, Calibration, features
from app.ranking.options import RankingOptions
from app.ranking.pipeline import assembled, selected, spans_wanted
from app.retrieval import Explained, Question, Retrieved, RetrieveUseCase
from app.surviving import Survival
from contracts.ports import VectorStore
from contracts.types import ChunkSpan, Hit, Passage

log = logging.getLogger(__name__)

NEIGHBOURS_IN_FLIGHT = 8
"""Questions at a time whose passages are grown: each is a query of its own, which Milvus must not be flooded with."""


def utc_today() -> dt.date:
    """What documents are young or old by, and what "last year" is counted from."""
    return dt.datetime.now(dt.UTC).date()


class AnswerabilityCheck:
    """`calibration` holds for one encoder; while another is served (`encoder` names it) nothing is refused."""

    def __init__(self, calibration: Calibration, encoder: Callable[[], Awaitable[str]]) -> None:
        self._calibration = calibration
        self._encoder = encoder
        self._said = False

    async def refuses(self, question: str, passages: Sequence[Passage], at_least: float | None) -> bool:
        """Whether the chance that these passages, in the order of the search, hold the answer is below `at_least`
        (None: as calibrated). Raises PharosError."""
        calibration = self._calibration
        served = await self._encoder()
        if served != calibration.encoder:
            if not self._said:
                self._said = True
                log.warning(
                    "no question is refused: the calibration is for the encoder %s, and %s is served",
                    calibration.encoder,
                    served,
                )
            return False
        chance = calibration.probability(features(question, passages))
        return chance < (calibration.threshold if at_least is None else at_least)


class ArrangingRetriever:
    """Around `retriever`. `options` are those of a question that says nothing else, and `most` is how many hits are
    searched for at most. Without `check` no question is refused. `watch` is told when the steps began and ended, as
    `time.monotonic()` instants."""

    def __init__(
        self,
        retriever: RetrieveUseCase,
        store: VectorStore,
        options: RankingOptions,
        *,
        most: int,
        check: AnswerabilityCheck | None = None,
        today: Callable[[], dt.date] = utc_today,
        watch: Callable[[float, float], None] = lambda _, __: None,
    ) -> None:
        self._retriever = retriever
        self._watch = watch
        self._store = store
        self._options = options
        self._most = most
        self._check = check
        self._today = today
        self._slots = asyncio.Semaphore(NEIGHBOURS_IN_FLIGHT)
        self._survival = Survival(log, "passages are handed over without what is around them", lambda _: None)

    async def retrieve(self, question: Question) -> Retrieved:
        """As `Retriever.retrieve`; a question that cannot be answered finds nothing."""
        options = self._options.overridden(question.ranking)
        found = await self._retriever.retrieve(self._wider(question, options))
        began = time.monotonic()
        try:
            refused = await self._refuses(question, found, options)
            hits = [] if refused else await self._arranged(found.hits, options, question)
        finally:
            seconds = self._took(began)
        return replace(found, hits=tuple(hits), prompt_order=options.prompt_order, arrange_seconds=seconds)

    async def explain(self, question: Question) -> Explained:
        """As `Retriever.explain`; no question is refused."""
        options = self._options.overridden(question.ranking)
        found = await self._retriever.explain(self._wider(question, options))
        last = found.ranking if found.reranked is None else found.reranked
        began = time.monotonic()
        try:
            hits = await self._arranged(last.hits, options, question)
        finally:
            seconds = self._took(began)
        return replace(found, arranged=tuple(hits), arrange_seconds=seconds)

    def _took(self, began: float) -> float:
        ended = time.monotonic()
        self._watch(began, ended)
        return ended - began

    def _wider(self, question: Question, options: RankingOptions) -> Question:
        limit = options.pool(question.limit, self._most)
        if self._check is not None:
            limit = max(limit, CONSIDERED)
        return replace(question, limit=limit, with_vectors=options.needs_vectors)

    async def _refuses(self, question: Question, found: Retrieved, options: RankingOptions) -> bool:
        if self._check is None or not found.hits or options.answerable_above == 0:
            return False
        # As training/answerability.py sees them: before the relevance cut and the reranker.
        passages = [hit.passage for hit in found.searched]
        return await self._check.refuses(question.text, passages, options.answerable_above)

    async def _arranged(self, hits: Sequence[Hit], options: RankingOptions, question: Question) -> list[Hit]:
        chosen = selected(hits, options, question.limit, self._today())
        spans = spans_wanted(chosen, options)
        return assembled(chosen, options, await self._around(spans, question.deadline) if spans else ())

    async def _around(self, spans: Sequence[ChunkSpan], deadline: float | None) -> Sequence[Passage]:
        """What is around the hits: nothing where the store does not say so in time, since it only adds to them."""
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()), self._slots:
                around = await self._store.neighbours(spans)
        except TimeoutError:
            self._survival.survived(DeadlineExceeded("There was no time left to fetch what is around the passages."))
            return ()
        except (StoreDown, StoreFailed) as failure:
            self._survival.survived(failure)
            return ()
        self._survival.went_well()
        return around


class NarrowingRetriever:
    """Around `retriever`: what a question says about when and what narrows its search (app/query_rules.py), where that
    is wanted and the request has not said it itself. Where nothing is found so, or the collection cannot be narrowed,
    it is searched as if nothing had been understood. `topics` are the names that there are."""

    def __init__(
        self,
        retriever: RetrieveUseCase,
        topics: Callable[[], Awaitable[Sequence[str]]],
        *,
        always: bool = False,
        today: Callable[[], dt.date] = utc_today,
    ) -> None:
        self._retriever = retriever
        self._topics = topics
        self._always = always
        self._today = today

    async def retrieve(self, question: Question) -> Retrieved:
        """As `Retriever.retrieve`."""
        narrowed = await self._narrowed(question)
        if narrowed is not question:
            with suppress(InvalidRequest):  # the collection keeps nothing to narrow by
                found = await self._retriever.retrieve(narrowed)
                if found.hits:
                    return found
        return await self._retriever.retrieve(question)

    async def explain(self, question: Question) -> Explained:
        """As `Retriever.explain`."""
        narrowed = await self._narrowed(question)
        if narrowed is not question:
            with suppress(InvalidRequest):
                found = await self._retriever.explain(narrowed)
                if found.ranking.hits:
                    return found
        return await self._retriever.explain(question)

    async def _narrowed(self, question: Question) -> Question:
        """`question` itself where nothing is to be understood. The text stays whole: its words may be in the documents
        too."""
        if not (self._always if question.self_query is None else question.self_query):
            return question
        said = narrowing(question.text, await self._topics(), self._today())
        filters = question.filters
        if filters.date_from is None and filters.date_to is None:
            filters = filters.within(said.date_from, said.date_to)
        topics = question.topics or said.topics
        if (topics, filters) == (question.topics, question.filters):
            return question
        return replace(question, topics=topics, filters=filters)
