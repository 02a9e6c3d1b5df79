"""Requests, sizes and durations by route, from prometheus-fastapi-instrumentator."""

from __future__ import annotations

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from prometheus_fastapi_instrumentator.metrics import Info

from contracts.telemetry import OTHER

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Those with a label of their own. A client can send any word, and each would be series for ever."""


def instrument(app: FastAPI, registry: CollectorRegistry) -> None:
    """Measure `app` into `registry`, but for the health pages. Paths without a route are all the handler `none`.
    Raises ValueError where `registry` has these metrics already."""
    record = metrics.default(registry=registry)
    if record is None:
        raise ValueError("this registry measures another application already")

    def bounded(info: Info) -> None:
        if info.method not in METHODS:
            info.method = OTHER
        record(info)

    unmeasured = ["^/metrics$", "^/healthz$", "^/readyz$"]
    Instrumentator(registry=registry, excluded_handlers=unmeasured).add(bounded).instrument(app)
