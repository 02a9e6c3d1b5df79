"""OpenAI's HTTP API under /v1 (docs/openai.md): its bodies and errors to and from the gateway's use cases."""

from __future__ import annotations

from fastapi import APIRouter

from app.chatting import Chat
from app.merging import MergingEncoder
from app.routes.openai import chat, embeddings, models
from app.served_models import ServedModels
from app.settings import Settings


def router(served: ServedModels, chats: Chat, encoder: MergingEncoder, settings: Settings) -> APIRouter:
    """Every route under /v1. `encoder` gathers what arrives together."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])
    routes.include_router(models.router(served))
    routes.include_router(chat.router(chats, settings))
    routes.include_router(embeddings.router(served, encoder))
    return routes
