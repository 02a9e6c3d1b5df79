"""POST /search: retrieval alone, with each stage's rank and score, so that one sees why a passage won."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from app.disconnect import CLIENT_CLOSED_REQUEST, ClientGone, unless_disconnected
from app.retrieval import Explained, Question, RetrieveUseCase
from app.routes.answers import shown
from app.routes.questions import QuestionBody, within
from app.settings import Settings
from app.terms import terms_of
from app.topics import TopicDirectory
from contracts import wire
from contracts.problems import request_id_of
from contracts.types import ExpandMode, Hit, Passage, Place, SearchMode

FUSED = "fused"
"""The stage of a hybrid search itself; the others are called as their mode."""
RERANK = "rerank"
"""The last stage, where there is a reranker."""
EXPANDED = "expanded"
"""The fusion of a question's searches, where it was phrased in several ways: `phrasing_1` and so on are those of the
others, and the stages before are the question's own."""


class SearchBody(QuestionBody):
    """What POST /search takes."""

    top_k: int = Field(default=10, ge=1, description="How many passages to find.", examples=[10])
    stages: bool = Field(default=True, description="Show each hit's rank and score in every stage.")


class SearchHit(msgspec.Struct, frozen=True):
    """`score` is the last stage's, `passage.score` the cosine similarity. A stage that did not have the passage among
    its best is not there."""

    rank: int
    score: float
    passage: Passage
    stages: Mapping[str, Place]


class SearchTimings(msgspec.Struct, frozen=True):
    """Seconds."""

    queue: float
    encode: float
    search: float
    total: float
    rerank: float | None = None
    expand: float | None = None
    arrange: float | None = None


class ShownExpansion(msgspec.Struct, frozen=True):
    """What the LLM added to the question: phrasings (multi_query) or passages (hyde). `skipped` says why there are
    none."""

    mode: ExpandMode
    texts: tuple[str, ...]
    skipped: str | None


class SearchAnswer(msgspec.Struct, frozen=True):
    """The answer of POST /search. `mode` is what was really done; `expansion` is None where none was wanted."""

    hits: tuple[SearchHit, ...]
    mode: SearchMode
    timings: SearchTimings
    request_id: str
    expansion: ShownExpansion | None = None


EXAMPLE = {
    "hits": [
        {
            "rank": 1,
            "score": 0.797,
            "passage": {
                "id": "5f0c…-0",
                "document_id": "5f0c…",
                "title": "Amateur astronomer in Namibia spots bright new comet",
                "topic": "science",
                "date": "2025-09-30",
                "text": "…",
                "score": 0.71,
                "author": "",
                "metadata": {},
            },
            "stages": {
                "fused": {"rank": 1, "score": 0.797},
                "dense": {"rank": 1, "score": 0.71},
                "sparse": {"rank": 1, "score": 12.3},
            },
        }
    ],
    "mode": "hybrid",
    "timings": {"queue": 0.0, "encode": 0.012, "search": 0.009, "total": 0.041},
    "request_id": "0c9f…",
    "expansion": None,
}


def router(retriever: RetrieveUseCase, topics: TopicDirectory, settings: Settings) -> APIRouter:
    """The route, around the retriever."""
    routes = APIRouter(tags=["search"])

    @routes.post(
        "/search",
        summary="Find passages",
        response_class=Response,
        responses={
            200: {
                "description": "The best passages, relevant or not, in the order that /ask would have them.",
                "content": {wire.JSON: {"example": EXAMPLE}},
            },
            422: {"description": "The request is not valid.", "content": {wire.PROBLEM: {}}},
            503: {"description": "Busy, or a part is down; see Retry-After.", "content": {wire.PROBLEM: {}}},
        },
    )
    async def search(body: SearchBody, request: Request) -> Response:
        top_k = within(
            body, body.top_k, question_chars_max=settings.question_chars_max, top_k_max=settings.search_top_k_max
        )
        try:
            answer = await unless_disconnected(request.receive, answered(body, request, top_k))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(msgspec.json.encode(answer), media_type=wire.JSON)

    async def answered(body: SearchBody, request: Request, top_k: int) -> SearchAnswer:
        terms, where = terms_of(request), body.where()
        if where:
            await topics.require(where)
        narrowed = body.narrowed()
        question = Question(
            body.question,
            where,
            top_k,
            terms.deadline,
            body.mode,
            narrowed,
            body.rerank,
            body.ranking,
            body.self_query,
            expand=body.expand,
            quota=terms.quota,
        )
        explained = await retriever.explain(question)
        seconds = SearchTimings(
            queue=explained.queue_seconds,
            encode=explained.encode_seconds,
            search=explained.ranking.search_seconds,
            total=time.monotonic() - terms.arrived,
            rerank=None if explained.reranked is None else explained.reranked.search_seconds,
            expand=explained.expand_seconds,
            arrange=explained.arrange_seconds,
        )
        added = explained.expansion
        return SearchAnswer(
            _hits(explained, stages=body.stages),
            explained.ranking.mode,
            seconds,
            request_id_of(request),
            None if added is None else ShownExpansion(added.mode, added.texts, added.skipped),
        )

    return routes


def _hits(explained: Explained, *, stages: bool) -> tuple[SearchHit, ...]:
    last = explained.reranked or explained.ranking
    hits = last.hits if explained.arranged is None else explained.arranged
    places = _places(explained) if stages else {}
    passages = shown([hit.passage for hit in hits])
    return tuple(
        SearchHit(
            rank=rank,
            score=hit.score,
            passage=passage,
            stages={stage: of_stage[passage.id] for stage, of_stage in places.items() if passage.id in of_stage},
        )
        for rank, (hit, passage) in enumerate(zip(hits, passages, strict=True), start=1)
    )


def _places(explained: Explained) -> dict[str, Mapping[str, Place]]:
    """By stage, in their order, then by passage."""
    ranking = explained.ranking
    own, *others = ranking.fused or (ranking.hits,)
    places: dict[str, Mapping[str, Place]] = {FUSED if ranking.mode == "hybrid" else ranking.mode: _placed(own)}
    for leg in ("dense", "sparse") if ranking.mode == "hybrid" else ():
        places[leg] = {hit.passage.id: hit.legs[leg] for hit in own if leg in hit.legs}
    for i, hits in enumerate(others, start=1):
        places[f"phrasing_{i}"] = _placed(hits)
    if ranking.fused:
        places[EXPANDED] = _placed(ranking.hits)
    if explained.reranked is not None:
        places[RERANK] = _placed(explained.reranked.hits)
    return places


def _placed(hits: Sequence[Hit]) -> dict[str, Place]:
    return {hit.passage.id: Place(rank, hit.score) for rank, hit in enumerate(hits, start=1)}
