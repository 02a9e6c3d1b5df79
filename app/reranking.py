"""Search hits into a better order: the first of them are read together with the question by a cross-encoder.

Batched across requests, and only where a model service has a reranker. docs/reranking.md says when it is worth it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    NoReranker,
    Overloaded,
)
from app.merging import MergingReranker
from app.ranking.prior import with_prior
from app.retrieval import Explained, Question, Ranking, Retrieved, RetrieveUseCase
from app.surviving import Survival
from contracts.types import Hit, Pair, Passage

log = logging.getLogger(__name__)

BEARABLE = (ModelServiceDown, ModelServiceFailed, NoReranker, Overloaded, DeadlineExceeded)
"""What a question survives that did not insist on reranking: it keeps the order of the search."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """Hits best first, whose scores are the reranker's (0 to 1) with the search's order as a prior, and the seconds
    they waited and took."""

    hits: tuple[Hit, ...]
    queue_seconds: float
    rerank_seconds: float


class Reranking:
    """`served` names the reranker that is served, "" for none; `policy` "off" asks it nothing at all. `candidates` is
    how many hits are scored for each question, `prior` how much their rank in the search counts beside the score
    (app/ranking/prior.py). `skipped` is told the code of each failure that a question survives."""

    def __init__(
        self,
        reranker: MergingReranker,
        served: Callable[[], Awaitable[str]],
        *,
        policy: Literal["auto", "off"] = "auto",
        candidates: int = 50,
        prior: float = 0.0,
        skipped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._reranker = reranker
        self._served = served
        self._policy = policy
        self._prior = prior
        self._survival = Survival(log, "passages keep the order of the search, since reranking fails", skipped)
        self.candidates = candidates

    async def wanted(self, asked: bool | None) -> bool | None:
        """Whether a question that asks for it, asks for none, or does not say (None) is to be reranked; None where
        nobody can say and it does not ask. Raises InvalidRequest for one that asks where there is no reranker, and
        PharosError for one where nobody can say."""
        if asked is False or (asked is None and self._policy == "off"):
            return False
        if self._policy == "off":
            raise InvalidRequest("rerank: is switched off here (PHAROS_RERANK).")
        try:
            there = bool(await self._served())
        except BEARABLE as failure:
            self._survival.survived(failure, must=bool(asked))
            return None
        if asked and not there:
            raise InvalidRequest("rerank: no reranker is served (PHAROS_LLM_RERANKER_MODEL).")
        return there

    async def reranked(
        self, question: str, hits: Sequence[Hit], limit: int, deadline: float | None = None, *, must: bool = False
    ) -> Reranked | None:
        """The `limit` best of the first `candidates` hits, in the reranker's order, then those that were beyond them.

        `deadline` is a `time.monotonic()` instant. None where the reranker failed and the question does not insist
        (`must`). Raises PharosError.
        """
        scored, beyond = hits[: self.candidates], hits[self.candidates :]
        pairs = [Pair(question, _read(hit.passage)) for hit in scored]
        if not pairs:
            return Reranked((), 0.0, 0.0)
        try:
            served = await self._reranker.served(pairs, deadline=deadline)
        except BEARABLE as failure:
            # A deadline that the queue would not meet leaves time for an answer in the search's order.
            self._survival.survived(failure, must=must, deadline=deadline)
            return None
        self._survival.went_well()
        scores = with_prior(served.value.scores.tolist(), self._prior)
        # Stable: of equal scores the search's order decides.
        order = sorted(range(len(scored)), key=lambda i: -scores[i])
        best = [msgspec.structs.replace(scored[i], score=scores[i]) for i in order]
        # Nobody has scored these: worse than all that were.
        rest = [msgspec.structs.replace(hit, score=0.0) for hit in beyond]
        return Reranked((*best, *rest)[:limit], served.queued_seconds, served.served_seconds)


class RerankingRetriever:
    """A retriever whose hits are reranked where the question and the settings want it: it is asked for as many as the
    reranker is to see, and what the search finds irrelevant is not reranked."""

    def __init__(self, retriever: RetrieveUseCase, reranking: Reranking) -> None:
        self._retriever = retriever
        self._reranking = reranking

    async def retrieve(self, question: Question) -> Retrieved:
        """As `Retriever.retrieve`; passages keep their cosine similarity as `score`."""
        wanted = await self._reranking.wanted(question.rerank)
        if not wanted:
            found = await self._retriever.retrieve(question)
            return found if wanted is False else dataclasses.replace(found, degraded=True)
        found = await self._retriever.retrieve(self._deeper(question))
        better = await self._rerank(question, found.hits)
        if better is None:
            return dataclasses.replace(found, hits=found.hits[: question.limit], degraded=True)
        return dataclasses.replace(
            found,
            hits=better.hits,
            queue_seconds=found.queue_seconds + better.queue_seconds,
            rerank_seconds=better.rerank_seconds,
        )

    async def explain(self, question: Question) -> Explained:
        """As `Retriever.explain`, with the reranker's ranking as the last one."""
        if not await self._reranking.wanted(question.rerank):
            return await self._retriever.explain(question)
        found = await self._retriever.explain(self._deeper(question))
        ranking = found.ranking
        better = await self._rerank(question, ranking.hits)
        if better is None:
            return dataclasses.replace(found, ranking=dataclasses.replace(ranking, hits=ranking.hits[: question.limit]))
        return dataclasses.replace(
            found,
            reranked=Ranking(ranking.mode, better.hits, better.queue_seconds, better.rerank_seconds),
            queue_seconds=found.queue_seconds + better.queue_seconds,
        )

    def _deeper(self, question: Question) -> Question:
        return dataclasses.replace(question, limit=max(question.limit, self._reranking.candidates))

    async def _rerank(self, question: Question, hits: Sequence[Hit]) -> Reranked | None:
        must = question.rerank is True
        return await self._reranking.reranked(question.text, hits, question.limit, question.deadline, must=must)


def _read(passage: Passage) -> str:
    """As it was encoded when it was stored (setup_milvus/chunking.py), and as training/mining.py has it."""
    return f"{passage.title}\n{passage.text}".strip()
