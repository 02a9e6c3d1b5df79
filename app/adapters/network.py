"""The adapters of a gateway in use: model services over HTTP, and Milvus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.adapters.discovery import Discovery
from app.adapters.milvus import MilvusStore
from app.adapters.model_client import HttpModelClient, Patience
from app.replicas import Health, Replicas
from app.routes.health import Check
from app.settings import Settings
from contracts.ports import VectorStore


@dataclass(frozen=True, slots=True)
class Adapters:
    """Everything outside the process. Tests pass their own."""

    replicas: Replicas
    store: VectorStore
    store_ready: Check
    close: Callable[[], Awaitable[None]]


def network_adapters(settings: Settings) -> Adapters:
    """The real ones: app_llm over HTTP and Milvus. Nothing connects before it is used."""
    patience = Patience(
        connect_seconds=settings.model_connect_timeout_seconds,
        call_seconds=settings.model_call_timeout_seconds,
        silence_seconds=settings.model_read_timeout_seconds,
        connections=settings.model_connections,
    )
    health = Health(
        failures=settings.replica_failures,
        probe_seconds=settings.replica_probe_seconds,
        resolve_seconds=settings.replica_resolve_seconds,
        prompts_max=settings.replica_prompts,
    )
    store = MilvusStore(
        settings.milvus_uri,
        settings.milvus_token,
        settings.collection,
        settings.milvus_timeout_seconds,
        settings.fusion,
    )
    return Adapters(
        replicas=Replicas(
            resolve=Discovery(settings.model_urls),
            connect=lambda address: HttpModelClient(address, patience),
            health=health,
        ),
        store=store,
        store_ready=store.ready,
        close=store.close,
    )
