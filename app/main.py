"""The one place where the gateway's parts are put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from app.adapters.model_facts import ModelFacts
from app.adapters.network import Adapters, network_adapters
from app.admission import Admission, AdmissionLimits
from app.arranging import AnswerabilityCheck, ArrangingRetriever, NarrowingRetriever
from app.asking import Asker, AskUseCase
from app.batching import BatchLimits
from app.caching.wiring import Caches
from app.chatting import Chat
from app.expanding import Expander, ExpandingRetriever, ExpandLimits
from app.generation import GenerationPool
from app.grounding import Grounding
from app.merging import MergingEncoder, MergingReranker
from app.quota import Keyring
from app.ranking.answerability import read_calibration
from app.replicas import Replicas
from app.replicated import ReplicatedEncoder, ReplicatedGenerator, ReplicatedReranker
from app.reranking import Reranking, RerankingRetriever
from app.retrieval import Retriever
from app.routes import ask, health, landing, openai, search, topics
from app.routes.middleware import BodyLimit, RequestIds
from app.routes.openai import errors as openai_errors
from app.served_models import ServedModels
from app.serving import Gate
from app.settings import Settings
from app.telemetry.caches import CacheMetrics
from app.telemetry.dependencies import watched_dependencies
from app.telemetry.live import LiveGauges, Queue
from app.telemetry.metrics import KindWatch, Metrics
from app.telemetry.middleware import Observed
from app.telemetry.traced import TracedEncoder, TracedReranker, TracedStore
from app.telemetry.wrappers import (
    InstrumentedExpander,
    InstrumentedGrounding,
    InstrumentedRetriever,
    TextsNoted,
    note_arranging,
)
from app.topics import TopicDirectory
from app.watching import UNWATCHED, BatchWatch
from contracts import problems
from contracts.ports import Encoder
from contracts.telemetry import APP, Stage
from observability import exposition, http_metrics
from observability.build import VERSION
from observability.settings import OFF, TelemetrySettings
from observability.tracing import Tracing, start_tracing
from observability.vitals import vitals

BODY_BYTES_MAX = 1_000_000
TEXTS_BYTES_MAX = 16_000_000
"""For /v1/embeddings: 2,048 texts, the most in a call, of 8 kB each."""


def create_app(
    settings: Settings,
    gate: Gate | None = None,
    telemetry: TelemetrySettings = OFF,
    registry: CollectorRegistry | None = None,
    *,
    adapters: Adapters | None = None,
) -> FastAPI:
    """The gateway as an ASGI application, whose metrics are in `registry`: by default one of its own, so that several
    gateways fit into one process. Raises ValueError for limits that cannot work together."""
    adapters = adapters or network_adapters(settings)
    gate = gate or Gate()
    replicas = adapters.replicas
    registry = registry or CollectorRegistry()
    metrics = Metrics(registry)
    tracing = start_tracing(APP, telemetry, VERSION)
    encoder = merging_encoder(
        settings, replicas, KindWatch(metrics, Stage.ENCODE), lambda inner: TracedEncoder(inner, tracing)
    )
    store = TracedStore(adapters.store, tracing, settings.collection)
    facts = ModelFacts(replicas)
    caches = Caches(settings, CacheMetrics(registry), facts.card)
    questions = caches.of_vectors(encoder)
    retriever = Retriever(
        questions,
        store,
        search_limits=BatchLimits(
            settings.search_batch_items,
            settings.queue_items,
            settings.search_in_flight,
            batch_cost=settings.search_batch_items,
            queue_seconds=settings.queue_seconds,
        ),
        min_score=settings.min_score,
        min_coverage=settings.min_coverage,
        mode=settings.search_mode,
        served=facts.encoder,
        watch=KindWatch(metrics, Stage.SEARCH),
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
        watch=KindWatch(metrics, Stage.GENERATE),
    )
    replicas.on_change(generation.wake)
    directory = TopicDirectory(store, settings.topics_ttl_seconds)
    grounding = Grounding(facts.get, prompt_tokens=settings.prompt_tokens)
    reranker = _merging_reranker(settings, replicas, KindWatch(metrics, Stage.RERANK), tracing)
    reranking = Reranking(
        reranker,
        facts.reranker,
        policy=settings.rerank,
        candidates=settings.rerank_candidates,
        prior=settings.rerank_prior,
        skipped=metrics.rerank_skipped,
    )
    arranging = ArrangingRetriever(
        RerankingRetriever(retriever, reranking),
        store,
        settings.ranking,
        most=settings.search_top_k_max,
        check=_answerability_check(settings, facts),
        watch=note_arranging,
    )
    expander = Expander(
        generation,
        mode=settings.expand,
        search_mode=settings.search_mode,
        limits=_expand_limits(settings),
        skipped=metrics.expand_skipped,
    )
    # Narrowed inside: where that finds nothing, the second search needs no second expansion.
    retrieving = InstrumentedRetriever(
        ExpandingRetriever(
            NarrowingRetriever(arranging, directory.names, always=settings.self_query),
            InstrumentedExpander(expander, with_texts=telemetry.log_texts),
        )
    )
    asker: AskUseCase = Asker(retrieving, InstrumentedGrounding(grounding), generation, directory)
    asker = caches.of_answers(asker, questions, store)
    if telemetry.log_texts:
        asker = TextsNoted(asker)
    served = ServedModels(facts.get, directory)
    chats = Chat(served, asker, generation, question_chars_max=settings.question_chars_max)
    queues: dict[str, Queue] = {
        "encode": encoder.batcher,
        "search": retriever.searching,
        "rerank": reranker.batcher,
        "generate": generation.submitting,
    }
    registry.register(LiveGauges(lambda: gate.inside, settings.requests_max, queues, replicas))
    checks = {"model_service": replicas.any_ready, "milvus": adapters.store_ready}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(tracing)
            stack.enter_context(vitals(registry, APP))
            stack.push_async_callback(adapters.close)
            await stack.enter_async_context(replicas)
            await stack.enter_async_context(watched_dependencies(registry, checks))
            await stack.enter_async_context(generation)
            await stack.enter_async_context(encoder.batcher)
            await stack.enter_async_context(reranker.batcher)
            await stack.enter_async_context(retriever)
            yield

    app = FastAPI(
        title="Pharos",
        version=VERSION,
        description="Question answering over your own documents that shows where every millisecond went.",
        lifespan=lifespan,
    )
    app.include_router(landing.router())
    app.include_router(ask.router(asker, settings))
    app.include_router(search.router(retrieving, directory, settings))
    app.include_router(openai.router(served, chats, encoder, settings))
    app.include_router(topics.router(directory))
    app.include_router(health.router(checks, gate, settings.retry_after_seconds))
    respond = problems.Responder(settings.retry_after_seconds, openai_errors.render)
    problems.install(app, respond)
    app.include_router(exposition.router(registry))
    http_metrics.instrument(app, registry)
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
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    app.add_middleware(Observed, metrics=metrics, tracing=tracing, routes=routes)
    app.add_middleware(RequestIds)
    return app


def _answerability_check(settings: Settings, facts: ModelFacts) -> AnswerabilityCheck | None:
    """None where no calibration is configured. Raises CalibrationError, a ValueError, for one that cannot be read."""
    if not settings.answerability:
        return None

    async def encoder() -> str:
        return (await facts.get()).card.encoder

    return AnswerabilityCheck(read_calibration(Path(settings.answerability)), encoder)


def _expand_limits(settings: Settings) -> ExpandLimits:
    return ExpandLimits(
        settings.expand_phrasings, settings.expand_passages, settings.expand_tokens, settings.expand_timeout_seconds
    )


def merging_encoder(
    settings: Settings,
    replicas: Replicas,
    watch: BatchWatch = UNWATCHED,
    traced: Callable[[Encoder], Encoder] = lambda encoder: encoder,
) -> MergingEncoder:
    """Every text of this gateway that is to be encoded goes through this one."""
    return MergingEncoder(
        traced(ReplicatedEncoder(replicas)),
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
        watch=watch,
    )


def _merging_reranker(settings: Settings, replicas: Replicas, watch: BatchWatch, tracing: Tracing) -> MergingReranker:
    return MergingReranker(
        TracedReranker(ReplicatedReranker(replicas), tracing),
        slice_pairs=settings.rerank_batch_pairs,
        limits=BatchLimits(
            min(settings.queue_items, settings.rerank_batch_pairs),
            settings.queue_items,
            settings.rerank_in_flight,
            batch_cost=settings.rerank_batch_pairs,
            queue_seconds=settings.queue_seconds,
        ),
        backends=replicas.count,
        watch=watch,
    )


def _is_work(path: str) -> bool:
    return path in ("/ask", "/search") or (path.startswith("/v1/") and not path.startswith("/v1/models"))


def _needs_key(path: str) -> bool:
    return path in ("/ask", "/search", "/topics") or path.startswith("/v1/")
