"""The one place where the gateway's parts are put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator

from app.adapters.milvus import MilvusStore
from app.adapters.model_client import HttpEncoder, HttpGenerator, ModelFacts, ModelService, model_http_client
from app.asking import Asker, GeneratorFacts
from app.batching import BatchLimits
from app.chatting import Chat
from app.generation import GenerationPool
from app.instrumented import InstrumentedAsker, Metrics
from app.retrieval import Retriever
from app.routes import ask, health, landing, openai, topics
from app.routes.health import Check
from app.routes.middleware import BodyLimit, RequestIds
from app.routes.openai import errors as openai_errors
from app.served_models import ServedModels
from app.settings import Settings
from app.topics import TopicDirectory
from contracts import problems
from contracts.ports import Encoder, Generator, VectorStore

BODY_BYTES_MAX = 1_000_000
TEXTS_BYTES_MAX = 16_000_000
"""For /v1/embeddings: 2,048 texts, the most in a call, of 8 kB each."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Everything outside the process. Tests pass their own."""

    encoder: Encoder
    generator: Generator
    store: VectorStore
    generator_facts: Callable[[], Awaitable[GeneratorFacts]]
    checks: Mapping[str, Check] = field(default_factory=dict)
    close: Callable[[], Awaitable[None]] | None = None


def network_adapters(settings: Settings) -> Adapters:
    """The real ones: app_llm over HTTP and Milvus. Nothing connects before it is used."""
    http = model_http_client(
        settings.model_url,
        connect_seconds=settings.model_connect_timeout_seconds,
        read_seconds=settings.model_read_timeout_seconds,
        connections=settings.model_connections,
    )
    service = ModelService(http, settings.model_call_timeout_seconds)
    store = MilvusStore(
        settings.milvus_uri, settings.milvus_token, settings.collection, settings.milvus_timeout_seconds
    )

    async def close() -> None:
        await store.close()
        await http.aclose()

    return Adapters(
        encoder=HttpEncoder(service),
        generator=HttpGenerator(service),
        store=store,
        generator_facts=ModelFacts(service).get,
        checks={"model_service": service.ready, "milvus": store.ready},
        close=close,
    )


def create_app(settings: Settings, adapters: Adapters | None = None) -> FastAPI:
    """The gateway as an ASGI application. Raises ValueError for limits that cannot work together."""
    adapters = adapters or network_adapters(settings)
    metrics = Metrics()
    retriever = Retriever(
        adapters.encoder,
        adapters.store,
        encode_limits=BatchLimits(settings.encode_batch_items, settings.queue_items, settings.encode_in_flight),
        search_limits=BatchLimits(settings.search_batch_items, settings.queue_items, settings.search_in_flight),
        min_score=settings.min_score,
        on_batch=metrics.on_batch,
    )
    generation = GenerationPool(
        adapters.generator,
        BatchLimits(settings.generate_batch_items, settings.queue_items, settings.generate_in_flight),
        on_batch=metrics.on_batch,
    )
    directory = TopicDirectory(adapters.store, settings.topics_ttl_seconds)
    asker = InstrumentedAsker(
        Asker(retriever, generation, directory, adapters.generator_facts, prompt_tokens=settings.prompt_tokens), metrics
    )
    served = ServedModels(adapters.generator_facts, directory)
    chats = Chat(served, asker, generation, question_chars_max=settings.question_chars_max)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            if adapters.close is not None:
                stack.push_async_callback(adapters.close)
            await stack.enter_async_context(generation)
            await stack.enter_async_context(retriever)
            yield

    app = FastAPI(
        title="Pharos",
        version="0.1.0",
        description="Question answering over your own documents that shows where every millisecond went.",
        lifespan=lifespan,
    )
    app.include_router(landing.router())
    app.include_router(ask.router(asker, settings))
    app.include_router(openai.router(served, chats, adapters.encoder, settings))
    app.include_router(topics.router(directory))
    app.include_router(health.router(adapters.checks, settings.retry_after_seconds))
    problems.install(app, settings.retry_after_seconds, openai_errors.render)
    Instrumentator(registry=metrics.registry, excluded_handlers=["/metrics", "/healthz", "/readyz"]).instrument(
        app
    ).expose(app, include_in_schema=True, tags=["health"])
    app.add_middleware(BodyLimit, max_bytes=BODY_BYTES_MAX, elsewhere={"/v1/embeddings": TEXTS_BYTES_MAX})
    app.add_middleware(RequestIds)
    return app
