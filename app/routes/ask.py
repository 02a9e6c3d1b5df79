"""POST /ask: a question in, an answer with its sources out, whole or as a stream of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from app.asking import TOP_K, AskEvent, AskRequest, AskUseCase, CacheHit, Done, Sources, Text
from app.disconnect import CLIENT_CLOSED_REQUEST, ClientGone, unless_disconnected
from app.errors import InvalidRequest, PharosError
from app.routes import sse
from app.routes.answers import gathered, shown
from app.routes.questions import QuestionBody, within
from app.settings import Settings
from app.terms import terms_of
from contracts import wire
from contracts.problems import request_id_of
from contracts.types import Passage, Sampling, SearchMode, Timings, Usage


class AskBody(QuestionBody):
    """What POST /ask takes."""

    top_k: int = Field(default=TOP_K, ge=1, description="How many passages to look at.", examples=[5])
    max_tokens: int | None = Field(default=None, ge=1, description="Longest answer, in tokens.", examples=[128])
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 always picks the likeliest token.", examples=[0])
    stream: bool = Field(default=False, description="Answer as server-sent events, token by token.", examples=[False])


class Answer(msgspec.Struct, frozen=True):
    """The JSON answer of POST /ask. Source i is cited as [i + 1]; `mode` is how they were really searched; `cached` is
    how it was found where an earlier answer is given again, which took no tokens."""

    answer: str
    sources: tuple[Passage, ...]
    finish_reason: str
    usage: Usage
    timings: Timings
    request_id: str
    mode: SearchMode | None
    cached: CacheHit | None


ANSWER_EXAMPLE = {
    "answer": "It will be nearest to Earth on 19 January [1].",
    "sources": [
        {
            "id": "5f0c…-0",
            "document_id": "5f0c…",
            "title": "Amateur astronomer in Namibia spots bright new comet",
            "topic": "science",
            "date": "2025-09-30",
            "score": 0.71,
            "text": "…",
        }
    ],
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 611, "completion_tokens": 14},
    "timings": {
        "queue": 0.001,
        "encode": 0.012,
        "search": 0.009,
        "prompt": 0.001,
        "time_to_first_token": 0.4,
        "generate": 0.9,
        "total": 0.93,
        "rerank": None,
        "expand": None,
        "arrange": 0.0001,
    },
    "request_id": "0c9f…",
    "mode": "hybrid",
    "cached": None,
}


def router(asker: AskUseCase, settings: Settings) -> APIRouter:
    """The route, around the use case."""
    routes = APIRouter(tags=["ask"])

    @routes.post(
        "/ask",
        summary="Ask a question",
        response_class=Response,
        responses={
            200: {
                "description": "The answer; with `stream` or `Accept: text/event-stream` the events `sources`, "
                "`token`… and one of `done` and `error`, after a first `meta`.",
                "content": {wire.JSON: {"example": ANSWER_EXAMPLE}, sse.MEDIA_TYPE: {}},
            },
            422: {"description": "The request is not valid.", "content": {wire.PROBLEM: {}}},
            503: {"description": "Busy, or a part is down; see Retry-After.", "content": {wire.PROBLEM: {}}},
        },
    )
    async def ask(body: AskBody, request: Request) -> Response:
        asked = _ask_request(body, request, settings)
        events = asker.ask(asked)
        try:
            if body.stream or sse.MEDIA_TYPE in request.headers.get("accept", ""):
                # Until the engine has the prompt nothing is sent, so that failures still have their own status.
                first = await unless_disconnected(request.receive, anext(events))
                return sse.EventStream(
                    head=sse.event("meta", _meta(asked.request_id, first)) + _sse_of(first),
                    events=events,
                    encode=_sse_of,
                    encode_error=lambda error: _sse_of_error(error, asked.request_id),
                    ping_seconds=settings.ping_seconds,
                )
            answer = await unless_disconnected(request.receive, _whole(asked.request_id, events))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(msgspec.json.encode(answer), media_type=wire.JSON)

    return routes


def _ask_request(body: AskBody, request: Request, settings: Settings) -> AskRequest:
    """The body as a question, within the limits that are settings. Raises InvalidRequest."""
    top_k = within(body, body.top_k, question_chars_max=settings.question_chars_max, top_k_max=settings.top_k_max)
    max_tokens = body.max_tokens or settings.max_tokens
    if max_tokens > settings.max_tokens_max:
        raise InvalidRequest(f"max_tokens: is {max_tokens:,}; at most {settings.max_tokens_max:,} is allowed")
    return AskRequest(
        request_id=request_id_of(request),
        question=body.question,
        topics=body.where(),
        top_k=top_k,
        sampling=Sampling(max_tokens=max_tokens, temperature=body.temperature),
        terms=terms_of(request),
        mode=body.mode,
        filters=body.narrowed(),
        rerank=body.rerank,
        ranking=body.ranking,
        self_query=body.self_query,
        expand=body.expand,
    )


async def _whole(request_id: str, events: AsyncGenerator[AskEvent, None]) -> Answer:
    whole = await gathered(events)
    done = whole.done
    return Answer(
        answer=whole.text.strip(),
        sources=whole.sources or (),
        finish_reason=done.finish_reason,
        usage=done.usage,
        timings=done.timings,
        request_id=request_id,
        mode=whole.mode,
        cached=whole.cached,
    )


def _meta(request_id: str, first: AskEvent) -> dict[str, str | None]:
    found = {"mode": first.mode, "cached": first.cached} if isinstance(first, Sources) else {}
    return {"request_id": request_id, **found}


def _sse_of_error(error: PharosError, request_id: str) -> bytes:
    return sse.event("error", error.body(request_id))


def _sse_of(event: AskEvent) -> bytes:
    match event:
        case Text():
            return sse.event("token", {"text": event.text})
        case Sources():
            return sse.event("sources", {"sources": shown(event.passages)})
        case Done():
            data = {"finish_reason": event.finish_reason, "usage": event.usage, "timings": event.timings}
            return sse.event("done", data)
