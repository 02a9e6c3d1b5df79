"""The one place where the model service's parts are put together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from app.admission import Admission, AdmissionLimits
from app.routes.middleware import BodyLimit
from app.serving import Gate
from app_llm.instrumented import Metrics
from app_llm.models import Models
from app_llm.routes import router
from app_llm.settings import Settings
from app_llm.traced import CallersSpan
from contracts import problems
from contracts.telemetry import APP_LLM
from observability import exposition, http_metrics
from observability.build import VERSION
from observability.gpu import gpu_metrics, installed_nvml
from observability.settings import OFF, TelemetrySettings
from observability.tracing import start_tracing
from observability.vitals import vitals

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2

BODY_BYTES_MAX = 64_000_000
"""4,096 texts, the most in a call, of 16 kB each."""
BODY_SECONDS = 10.0
"""To receive it: the gateway sends it in one go, over a network that is near."""

WORK = frozenset({"/encode", "/rerank", "/generate", "/llm_ask"})
"""What draining refuses and waits for."""


def create_app(
    settings: Settings, gate: Gate, telemetry: TelemetrySettings = OFF, registry: CollectorRegistry | None = None
) -> FastAPI:
    """The model service as an ASGI application, whose metrics are in `registry`, by default a new one. It answers at
    once; /readyz says when the models are loaded, and, once `gate` is closed, that no new work is taken."""
    tracing = start_tracing(APP_LLM, telemetry, VERSION)
    registry = registry or CollectorRegistry()
    registry.register(REGISTRY)  # the default one, where vLLM keeps its vllm:* series
    models = Models(settings, Metrics(registry), telemetry, tracing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        loading = asyncio.ensure_future(_load_or_exit(models))
        with vitals(registry, APP_LLM), gpu_metrics(registry, installed_nvml()):
            yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await models.close()
        await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="Pharos model service",
        version=VERSION,
        description="A SentenceTransformer encoder, a cross-encoder and a vLLM generator behind one API.",
        lifespan=lifespan,
    )
    app.include_router(router(models, gate))
    respond = problems.Responder(RETRY_AFTER_SECONDS)
    problems.install(app, respond)
    app.include_router(exposition.router(registry))
    http_metrics.instrument(app, registry)
    app.add_middleware(BodyLimit, max_bytes=BODY_BYTES_MAX, seconds=BODY_SECONDS)
    app.add_middleware(Admission, gate=gate, limits=AdmissionLimits(), is_work=WORK.__contains__, respond=respond)
    app.add_middleware(CallersSpan)
    return app


async def _load_or_exit(models: Models) -> None:
    try:
        await models.load()
    except Exception as exc:  # the boundary to model libraries: whatever they raise, there is nothing to serve
        log.info("the whole error", exc_info=exc)
        log.critical("the models cannot be loaded: %s", str(exc).strip().splitlines()[-1] if str(exc) else repr(exc))
        os.kill(os.getpid(), signal.SIGTERM)
