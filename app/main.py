"""The one place where the gateway's parts are put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator

from app.adapters.discovery import Discovery
from app.adapters.milvus import MilvusStore
from app.adapters.model_client import HttpModelClient, Patience
from app.adapters.model_facts import ModelFacts
from app.admission import Admission, AdmissionLimits
from app.asking import Asker
from app.batching import BatchLimits
from app.chatting import Chat
from app.generation import GenerationPool
from app.instrumented import InstrumentedAsker, Metrics
from app.loop_gauge import task_gauge
from app.merging import MergingEncoder
from app.quota import Keyring
from app.replicas import Health, Replicas
from app.replicated import ReplicatedEncoder, ReplicatedGenerator
from app.retrieval import Retriever
from app.routes import ask, health, landing, openai, topics
from app.routes.health import Check
from app.routes.middleware import BodyLimit, RequestIds
from app.routes.openai import errors as openai_errors
from app.served_models import ServedModels
from app.serving import Gate
from app.settings import Settings
from app.topics import TopicDirectory
from contracts import problems
from contracts.ports import VectorStore

BODY_BYTES_MAX = 1_000_000
TEXTS_BYTES_MAX = 16_000_000
"""For /v1/embeddings: 2,048 texts, the most in a call, of 8 kB each."""


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
        settings.milvus_uri, settings.milvus_token, settings.collection, settings.milvus_timeout_seconds
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


def create_app(settings: Settings, gate: Gate | None = None, adapters: Adapters | None = None) -> FastAPI:
    """The gateway as an ASGI application. Raises ValueError for limits that cannot work together."""
    adapters = adapters or network_adapters(settings)
    replicas = adapters.replicas
    metrics = Metrics()
    encoder = merging_encoder(settings, replicas, partial(metrics.on_batch, "encode"))
    retriever = Retriever(
        encoder,
        adapters.store,
        search_limits=BatchLimits(
            settings.search_batch_items,
            settings.queue_items,
            settings.search_in_flight,
            queue_seconds=settings.queue_seconds,
        ),
        min_score=settings.min_score,
        on_batch=metrics.on_batch,
    )
    generation = GenerationPool(
        ReplicatedGenerator(replicas),
        BatchLimits(
            settings.generate_batch_items,
            settings.queue_items,
            settings.generate_in_flight,
            queue_cost=settings.queue_tokens,
            queue_seconds=settings.queue_seconds,
        ),
        backends=replicas.count,
        room=replicas.prompt_room,
        on_batch=metrics.on_batch,
    )
    replicas.on_change(generation.wake)
    facts = ModelFacts(replicas)
    directory = TopicDirectory(adapters.store, settings.topics_ttl_seconds)
    asker = InstrumentedAsker(
        Asker(retriever, generation, directory, facts.get, prompt_tokens=settings.prompt_tokens), metrics
    )
    served = ServedModels(facts.get, directory)
    chats = Chat(served, asker, generation, question_chars_max=settings.question_chars_max)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(task_gauge(metrics.registry))
            stack.push_async_callback(adapters.close)
            await stack.enter_async_context(replicas)
            await stack.enter_async_context(generation)
            await stack.enter_async_context(encoder.batcher)
            await stack.enter_async_context(retriever)
            yield

    app = FastAPI(
        title="Pharos",
        version="0.1.0",
        description="Question answering over your own documents that shows where every millisecond went.",
        lifespan=lifespan,
    )
    app.state.registry = metrics.registry
    app.include_router(landing.router())
    app.include_router(ask.router(asker, settings))
    app.include_router(openai.router(served, chats, encoder, settings))
    app.include_router(topics.router(directory))
    gate = gate or Gate()
    checks = {"model_service": replicas.any_ready, "milvus": adapters.store_ready}
    app.include_router(health.router(checks, gate, settings.retry_after_seconds))
    respond = problems.Responder(settings.retry_after_seconds, openai_errors.render)
    problems.install(app, respond)
    Instrumentator(registry=metrics.registry, excluded_handlers=["/metrics", "/healthz", "/readyz"]).instrument(
        app
    ).expose(app, include_in_schema=True, tags=["health"])
    app.add_middleware(
        BodyLimit,
        max_bytes=BODY_BYTES_MAX,
        seconds=settings.body_timeout_seconds,
        elsewhere={"/v1/embeddings": TEXTS_BYTES_MAX},
    )
    app.add_middleware(
        Admission,
        gate=gate,
        limits=AdmissionLimits(
            settings.requests_max, settings.request_timeout_seconds, settings.request_timeout_max_seconds
        ),
        is_work=_is_work,
        respond=respond,
        keyring=Keyring(settings.api_keys),
        needs_key=_needs_key,
    )
    app.add_middleware(RequestIds)
    return app


def merging_encoder(
    settings: Settings, replicas: Replicas, on_batch: Callable[[int, float], None] = lambda _items, _wait: None
) -> MergingEncoder:
    """Every text of this gateway that is to be encoded goes through this one."""
    return MergingEncoder(
        ReplicatedEncoder(replicas),
        slice_texts=settings.encode_batch_items,
        limits=BatchLimits(
            settings.encode_batch_items,
            settings.queue_items,
            settings.encode_in_flight,
            batch_cost=settings.encode_batch_items,
            queue_seconds=settings.queue_seconds,
            max_wait_seconds=settings.encode_max_wait_seconds,
        ),
        backends=replicas.count,
        on_batch=on_batch,
    )


def _is_work(path: str) -> bool:
    return path == "/ask" or (path.startswith("/v1/") and not path.startswith("/v1/models"))


def _needs_key(path: str) -> bool:
    return path in ("/ask", "/topics") or path.startswith("/v1/")
