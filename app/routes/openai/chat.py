"""POST /v1/chat/completions: a conversation in, its continuation out, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.chatting import Chat, ChatEvent, ChatRequest
from app.disconnect import unless_disconnected
from app.routes import sse
from app.routes.openai.bodies import ChatBody, PlainRoute, in_openapi, read
from app.routes.openai.completions import ChunkWriter, Completion, whole
from app.routes.openai.conversations import chat_request
from app.settings import Settings
from app.terms import terms_of
from contracts import wire
from contracts.problems import request_id_of

_decoder = msgspec.json.Decoder(ChatBody)

_EXAMPLE = {
    "id": "chatcmpl-0c9f…",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "topic:science",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "On 19 January [1].", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 611, "completion_tokens": 9, "total_tokens": 620},
    "sources": [{"title": "Amateur astronomer in Namibia spots bright new comet", "topic": "science", "score": 0.71}],
}


def router(chats: Chat, settings: Settings) -> APIRouter:
    """The route, around the use case."""
    routes = APIRouter(route_class=PlainRoute)

    @routes.post(
        "/chat/completions",
        summary="Continue a conversation",
        response_class=Response,
        openapi_extra=in_openapi(ChatBody),
        responses={
            200: {
                "description": "The answer; with `stream` chunks, then `[DONE]`.",
                "content": {wire.JSON: {"example": _EXAMPLE}, sse.MEDIA_TYPE: {}},
            }
        },
    )
    async def complete(request: Request) -> Response:
        body = await read(request, _decoder)
        asked = chat_request(body, request_id_of(request), terms_of(request), settings)
        if not body.stream:
            answer = await unless_disconnected(request.receive, _whole(asked))
            return Response(msgspec.json.encode(answer), media_type=wire.JSON)
        # Until the engine has the prompt nothing is sent, so that failures still have their own status.
        events, first = await unless_disconnected(request.receive, _begin(asked))
        options = body.stream_options
        writer = ChunkWriter(body.model, include_usage=bool(options and options.include_usage))
        return sse.EventStream(
            head=writer.write(first),
            events=events,
            encode=writer.write,
            encode_error=writer.write_error,
            ping_seconds=settings.ping_seconds,
        )

    async def _whole(asked: ChatRequest) -> Completion:
        return await whole(asked.model, await chats.complete(asked))

    async def _begin(asked: ChatRequest) -> tuple[AsyncGenerator[ChatEvent, None], ChatEvent]:
        events = await chats.complete(asked)
        return events, await anext(events)

    return routes
