"""The model service's HTTP API (bodies and frames: contracts/wire.py)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.disconnect import CLIENT_CLOSED_REQUEST, ClientGone, unless_disconnected
from app.serving import Gate
from app.terms import terms_of
from app_llm.errors import AllRefused, NoReranker
from app_llm.models import Models
from contracts import wire
from contracts.types import Delta, Frame, Prompt, PromptProblem, Readiness


def router(models: Models, gate: Gate) -> APIRouter:
    """Every route, around the models. `gate` is closed while the service drains."""
    routes = APIRouter()

    @routes.post(
        "/encode",
        tags=["models"],
        summary="Texts to normalised float32 vectors",
        response_class=Response,
        responses={200: {"content": {wire.JSON: {}, wire.MSGPACK: {}}}},
    )
    async def encode(body: wire.EncodeRequest, request: Request) -> Response:
        """`truncated` lists the texts that were longer than the encoder's window. With
        `Accept: application/x-msgpack` the vectors come as raw bytes with `shape` and `dtype`."""
        try:
            work = models.loaded.encoder.encode(body.texts, timeout_seconds=terms_of(request).seconds_left)
            encoding = await unless_disconnected(request.receive, work)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if _wants_msgpack(request):
            return Response(wire.encoding_to_msgpack(encoding), media_type=wire.MSGPACK)
        return Response(wire.encoding_to_json(encoding), media_type=wire.JSON)

    @routes.post(
        "/rerank",
        tags=["models"],
        summary="Pairs of question and text to scores",
        response_class=Response,
        responses={200: {"content": {wire.JSON: {}, wire.MSGPACK: {}}}, 404: {"description": "No reranker"}},
    )
    async def rerank(body: wire.RerankRequest, request: Request) -> Response:
        """Scores from 0 to 1, in the order of the pairs. `truncated` lists the pairs that were longer than the
        reranker's window. 404 `no_reranker` where none is configured (PHAROS_LLM_RERANKER_MODEL)."""
        reranker = models.loaded.reranker
        if reranker is None:
            raise NoReranker("No cross-encoder is configured here: set PHAROS_LLM_RERANKER_MODEL.")
        try:
            work = reranker.rerank(body.to_pairs(), timeout_seconds=terms_of(request).seconds_left)
            scores = await unless_disconnected(request.receive, work)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if _wants_msgpack(request):
            return Response(wire.scores_to_msgpack(scores), media_type=wire.MSGPACK)
        return Response(wire.scores_to_json(scores), media_type=wire.JSON)

    @routes.post(
        "/generate",
        tags=["models"],
        summary="Prompts to one stream of frames",
        response_class=Response,
        responses={200: {"content": {wire.NDJSON: {}, wire.MSGPACK: {}}}},
    )
    @routes.post("/llm_ask", tags=["models"], summary="/generate under its older name", response_class=Response)
    async def generate(body: wire.GenerateRequest, request: Request) -> Response:
        """Each frame carries the new tokens of every prompt that advanced. A bad prompt ends with the finish reason
        `error` while the others run; when none can run, the answer is an error of its own."""
        prompts, bad = _read(body.prompts)
        frames = models.loaded.generator.generate(prompts)
        first = await anext(frames)
        refusals = (*bad, *first.deltas)
        if len(refusals) == len(body.prompts):
            await frames.aclose()
            raise _all_refused(refusals)
        return _Frames(refusals, frames, as_msgpack=_wants_msgpack(request))

    @routes.post("/abort", tags=["models"], summary="Stop prompts and free their slots", status_code=204)
    async def abort(body: wire.AbortRequest) -> None:
        await models.loaded.generator.abort(body.request_ids)

    @routes.get("/models", tags=["models"], summary="What is served", response_class=Response)
    async def card() -> Response:
        return Response(msgspec.json.encode(models.loaded.card), media_type=wire.JSON)

    @routes.get("/models/{model}/tokenizer", tags=["models"], summary="tokenizer.json", response_class=Response)
    async def tokenizer(model: Literal["encoder", "generator"]) -> Response:
        """So that a client counts tokens exactly as the model does."""
        loaded = models.loaded
        body = loaded.encoder_tokenizer if model == "encoder" else loaded.generator_tokenizer
        return Response(body, media_type=wire.JSON)

    @routes.get("/healthz", tags=["health"], summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", tags=["health"], summary="Every model has warmed up", response_class=Response)
    async def readyz() -> Response:
        """503 while the models load, and again from SIGTERM on, while running prompts are finished."""
        generator = models.loaded.generator
        status: Literal["ready", "draining"] = "draining" if gate.closed else "ready"
        readiness = Readiness(status, generator.held, generator.at_once)
        return Response(msgspec.json.encode(readiness), 503 if gate.closed else 200, media_type=wire.JSON)

    return routes


class _Frames(StreamingResponse):
    """A stream that ends as soon as the client goes away, also while no token comes.

    Starlette watches for the disconnect itself only below ASGI 2.4; above, it waits for a write to fail.
    """

    def __init__(self, refusals: tuple[Delta, ...], frames: AsyncGenerator[Frame, None], *, as_msgpack: bool) -> None:
        encode = wire.frame_to_msgpack if as_msgpack else wire.frame_to_ndjson
        super().__init__(_encoded(refusals, frames, encode), media_type=wire.MSGPACK if as_msgpack else wire.NDJSON)
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Closed here and not by `_encoded`, which never runs when the client is gone before the first byte.
        async with aclosing(self._frames):
            await super().__call__({**scope, "asgi": {**scope["asgi"], "spec_version": "2.3"}}, receive, send)


async def _encoded(
    refusals: tuple[Delta, ...], frames: AsyncGenerator[Frame, None], encode: Callable[[Frame], bytes]
) -> AsyncGenerator[bytes, None]:
    yield encode(Frame(refusals))
    async for frame in frames:
        yield encode(frame)


def _read(bodies: list[dict[str, Any]]) -> tuple[list[Prompt], tuple[Delta, ...]]:
    """The prompts that can be read, and the refusals of those that cannot."""
    prompts: list[Prompt] = []
    refusals: list[Delta] = []
    seen: set[str] = set()
    for index, body in enumerate(bodies):
        request_id = str(body.get("request_id", f"#{index}"))
        try:
            if request_id in seen:
                raise ValueError(f"request_id {request_id!r} occurs twice in this call; give each prompt its own")
            seen.add(request_id)
            prompt = wire.PromptBody.model_validate(body).to_prompt()
        except ValidationError as exc:
            why = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'prompt'}: {e['msg']}" for e in exc.errors())
            refusals.append(_refusal(request_id, why))
        except ValueError as exc:
            refusals.append(_refusal(f"#{index}", str(exc)))
        else:
            prompts.append(prompt)
    return prompts, tuple(refusals)


def _refusal(request_id: str, why: str) -> Delta:
    return Delta(request_id, finish_reason="error", error=PromptProblem(422, "invalid_prompt", why))


def _all_refused(refusals: tuple[Delta, ...]) -> AllRefused:
    problems = [(delta.request_id, delta.error) for delta in refusals if delta.error is not None]
    return AllRefused(problems[0][1].status, problems[0][1].detail, wire.refused_body(problems))


def _wants_msgpack(request: Request) -> bool:
    return wire.MSGPACK in request.headers.get("accept", "")
