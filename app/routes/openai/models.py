"""GET /v1/models: what can be named as `model`."""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from app.served_models import ServedModels
from contracts import wire


class Model(msgspec.Struct, frozen=True):
    """OpenAI's model object. `created` is when this gateway started."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "pharos"


class ModelList(msgspec.Struct, frozen=True):
    """OpenAI's list of them."""

    data: list[Model]
    object: str = "list"


_EXAMPLE = {"id": "topic:science", "created": 1760000000, "object": "model", "owned_by": "pharos"}


def router(served: ServedModels) -> APIRouter:
    """The routes, around the names."""
    routes = APIRouter()
    started = int(time.time())

    @routes.get(
        "/models",
        summary="The LLM, the encoder, and the topics as models",
        response_class=Response,
        responses={200: {"content": {wire.JSON: {"example": {"object": "list", "data": [_EXAMPLE]}}}}},
    )
    async def list_models() -> Response:
        names = await served.all()
        body = ModelList([Model(name, started) for name in names])
        return Response(msgspec.json.encode(body), media_type=wire.JSON)

    # `path`, because Hugging Face ids have a slash.
    @routes.get(
        "/models/{model:path}",
        summary="One of them",
        response_class=Response,
        responses={200: {"content": {wire.JSON: {"example": _EXAMPLE}}}, 404: {"description": "No such model."}},
    )
    async def one_model(model: str) -> Response:
        await served.require(model)
        return Response(msgspec.json.encode(Model(model, started)), media_type=wire.JSON)

    return routes
