"""The one place where the model service's parts are put together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_fastapi_instrumentator import Instrumentator

from app.admission import Admission, AdmissionLimits
from app.loop_gauge import task_gauge
from app.routes.middleware import BodyLimit
from app.serving import Gate
from app_llm.models import Models
from app_llm.routes import router
from app_llm.settings import Settings
from contracts import problems

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2

BODY_BYTES_MAX = 64_000_000
"""4,096 texts, the most in a call, of 16 kB each."""
BODY_SECONDS = 10.0
"""To receive it: the gateway sends it in one go, over a network that is near."""

WORK = frozenset({"/encode", "/generate", "/llm_ask"})
"""What draining refuses and waits for."""


def create_app(settings: Settings, gate: Gate) -> FastAPI:
    """The model service as an ASGI application. It answers at once; /readyz says when the models are loaded, and, once
    `gate` is closed, that no new work is taken."""
    models = Models(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        loading = asyncio.ensure_future(_load_or_exit(models))
        with task_gauge(REGISTRY):
            yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await models.close()

    app = FastAPI(
        title="Pharos model service",
        version="0.1.0",
        description="A SentenceTransformer encoder and a vLLM generator behind one API.",
        lifespan=lifespan,
    )
    app.state.registry = REGISTRY
    app.include_router(router(models, gate))
    respond = problems.Responder(RETRY_AFTER_SECONDS)
    problems.install(app, respond)
    # The default registry, where vLLM keeps its own vllm:* series.
    Instrumentator(excluded_handlers=["/metrics", "/healthz", "/readyz"]).instrument(app).expose(app, tags=["health"])
    app.add_middleware(BodyLimit, max_bytes=BODY_BYTES_MAX, seconds=BODY_SECONDS)
    app.add_middleware(Admission, gate=gate, limits=AdmissionLimits(), is_work=WORK.__contains__, respond=respond)
    return app


async def _load_or_exit(models: Models) -> None:
    try:
        await models.load()
    except Exception as exc:  # the boundary to model libraries: whatever they raise, there is nothing to serve
        log.info("the whole error", exc_info=exc)
        log.critical("the models cannot be loaded: %s", str(exc).strip().splitlines()[-1] if str(exc) else repr(exc))
        os.kill(os.getpid(), signal.SIGTERM)
