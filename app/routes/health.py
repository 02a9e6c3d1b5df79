"""GET /healthz and /readyz, for whoever keeps the process alive and whoever sends it traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.serving import Gate

Check = Callable[[], Awaitable[bool]]


def router(checks: Mapping[str, Check], gate: Gate, retry_after_seconds: int) -> APIRouter:
    """`checks` names each dependency and says whether it can serve; a closed `gate` means that we are shutting down."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get(
        "/readyz",
        summary="Every dependency can serve",
        responses={503: {"description": "A dependency cannot; the body says which."}},
    )
    async def readyz() -> JSONResponse:
        results = await asyncio.gather(*(check() for check in checks.values()))
        ready = all(results) and not gate.closed
        status = "draining" if gate.closed else "ready" if ready else "not ready"
        body = {"status": status, "checks": dict(zip(checks, results, strict=True))}
        return JSONResponse(body, 200 if ready else 503, {} if ready else {"Retry-After": str(retry_after_seconds)})

    return routes
