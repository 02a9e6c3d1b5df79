"""GET /topics: what can be asked about."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from app.topics import TopicDirectory
from contracts import wire


def router(topics: TopicDirectory) -> APIRouter:
    """The route, around the directory."""
    routes = APIRouter(tags=["topics"])

    @routes.get(
        "/topics",
        summary="Topics and how much is in each",
        response_class=Response,
        responses={
            200: {
                "description": "By name. Counts may be some seconds old.",
                "content": {
                    wire.JSON: {"example": {"topics": [{"topic": "business", "documents": 12, "passages": 14}]}}
                },
            }
        },
    )
    async def list_topics() -> Response:
        return Response(msgspec.json.encode({"topics": await topics.all()}), media_type=wire.JSON)

    return routes
