"""Errors as RFC 9457 problem bodies: one place for every kind of failure of every resource."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import PharosError
from contracts import wire

log = logging.getLogger(__name__)

RETRY_STATUSES = (502, 503, 504)


def problem_body(request_id: str, status: int, code: str, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem: RFC 9457's own, then `code`, `request_id`, `retryable` and any more."""
    return {
        "type": f"https://pharos.invalid/problems/{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "retryable": status in RETRY_STATUSES,
        **more,
    }


def problem_of(error: PharosError, request_id: str) -> dict[str, Any]:
    """The problem body of one of the gateway's errors."""
    return problem_body(request_id, error.status, error.code, error.title, error.detail)


def install(app: FastAPI, retry_after_seconds: int) -> None:
    """Make every error of `app` a problem response, with `Retry-After` where trying again may help."""

    def answer(request: Request, status: int, code: str, title: str, detail: str, **more: Any) -> JSONResponse:
        headers = {"Retry-After": str(retry_after_seconds)} if status in RETRY_STATUSES else {}
        body = problem_body(request_id_of(request), status, code, title, detail, **more)
        return JSONResponse(body, status, headers, media_type=wire.PROBLEM)

    async def on_pharos_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PharosError)
        if error.status >= 500:
            log.warning("%s: %s (%r)", error.code, error.detail, error.__cause__)
        return answer(request, error.status, error.code, error.title, error.detail)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            why = first.get("ctx", {}).get("error", "")
            return answer(request, 400, "malformed_json", "The body is not JSON", f"{why} at {first['loc'][-1]}".strip())
        errors = [{"field": _field(e["loc"]), "message": e["msg"], "type": e["type"]} for e in error.errors()]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
        return answer(request, 422, "invalid_request", "The request is not valid", detail, errors=errors)

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {phrase.lower()}. The API is described under /docs."
        return answer(request, error.status_code, phrase.lower().replace(" ", "_"), phrase, detail)

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        # Starlette logs the traceback itself; the caller gets none of it.
        return answer(request, 500, "internal", "Internal error", "This is a fault in Pharos; its log says more.")

    app.add_exception_handler(PharosError, on_pharos_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_anything)


def request_id_of(request: Request) -> str:
    """The id that `RequestIds` gave the request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "body") or "body"
