"""GET /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, Header
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

Encode = Callable[[Collector], bytes]

_OPENMETRICS = (
    choose_encoder("application/openmetrics-text; version=1.0.0; escaping=allow-utf-8")[0],
    CONTENT_TYPE_LATEST,
)
"""No name here needs escaping, so this escaping fits everybody. With another one prometheus_client 0.26 turns `vllm:`
into `vllm_` (prometheus/client_python issue 1177), and Prometheus before 3.0 asks for none."""


class Exposition:
    """Renders a registry in a thread, so that a scrape never holds up the event loop, and one scrape at a time.

    Scrapes that come during a rendering share the next one: each sees everything from before it came, and however many
    come, no more than two renderings of a format are due.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._turn = asyncio.Lock()
        self._next: dict[str, asyncio.Task[bytes]] = {}
        # Not the loop's own threads: they may all be waiting for a name server when somebody wants to know why.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their media type, chosen by the `Accept` header. Raises what a collector raises."""
        encode, media_type = _chosen(accept)
        rendering = self._next.get(media_type)
        if rendering is None:
            rendering = self._next[media_type] = asyncio.create_task(self._render(encode, media_type))
        # Shielded, since others may be waiting for it.
        return await asyncio.shield(rendering), media_type

    async def _render(self, encode: Encode, media_type: str) -> bytes:
        async with self._turn:
            del self._next[media_type]
            return await asyncio.get_running_loop().run_in_executor(self._thread, encode, self._registry)


def _chosen(accept: str) -> tuple[Encode, str]:
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # what it raises for a version that is no number
        return choose_encoder("")
    return _OPENMETRICS if media_type.startswith("application/openmetrics-text") else (encode, media_type)


def router(registry: CollectorRegistry) -> APIRouter:
    """GET /metrics of `registry`, in the text format of Prometheus or in OpenMetrics, which has exemplars."""
    routes = APIRouter(tags=["health"])
    exposition = Exposition(registry)

    @routes.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
    async def metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """With `Accept: application/openmetrics-text` in OpenMetrics: the same series, and the exemplars' trace ids."""
        body, media_type = await exposition.render(accept)
        return Response(body, headers={"Content-Type": media_type})

    return routes
