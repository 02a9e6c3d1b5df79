"""How both services say that something went wrong: RFC 9457 problem bodies, in one place for every resource."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from contracts import wire
from contracts.telemetry import REQUEST_ID_HEADER

log = logging.getLogger(__name__)

RETRY_STATUSES = (429, 502, 503, 504)
"""Failures that may be over in a moment: the answer has `Retry-After`, and `retryable` is true."""

PROBLEM = "problem"
"""In a scope's state: status and code of the problem that was answered, for whoever counts requests."""
INTERNAL = "internal"
"""The code of a fault of ours."""
CLIENT_LEFT = "client_left"
"""In a scope's state, when the client went away before its answer was complete."""

RETRY_AFTER_SECONDS_MAX = 60
"""Nobody plans further ahead from a measurement of some seconds."""

DECLARE_JSON = "Send the body as JSON, with the header 'Content-Type: application/json'."


class ProblemError(Exception):
    """An error that has an answer. `detail` is for the caller: it says what to do, and never holds internals."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after_seconds: float | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.more = more

    def body(self, request_id: str) -> dict[str, Any]:
        """This error as a problem body."""
        return problem_body(request_id, self.status, self.code, self.title, self.detail, **self.more)


def problem_body(request_id: str, status: int, code: str, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem: RFC 9457's own, then `code`, `request_id`, `retryable` and any more."""
    return {
        "type": f"urn:pharos:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "retryable": status in RETRY_STATUSES,
        **more,
    }


Render = Callable[[Request, dict[str, Any], dict[str, str]], Response]
"""A problem body and headers to the response that says it."""


def problem_response(_: Request, body: dict[str, Any], headers: dict[str, str]) -> Response:
    """The body as `application/problem+json`."""
    return JSONResponse(body, body["status"], headers, media_type=wire.PROBLEM)


class Responder:
    """Errors as responses, with `Retry-After` where trying again may help: what was measured, or else the default."""

    def __init__(self, retry_after_seconds: int, render: Render = problem_response) -> None:
        self._retry_after_seconds = retry_after_seconds
        self._render = render

    def __call__(self, request: Request, error: ProblemError) -> Response:
        """The response to `error`."""
        return self.of_body(request, error.body(request_id_of(request)), error.retry_after_seconds)

    def of_body(self, request: Request, body: dict[str, Any], measured_seconds: float | None = None) -> Response:
        """The response that says `body`."""
        request.scope.setdefault("state", {})[PROBLEM] = (body["status"], body["code"])
        headers = {}
        if body["retryable"]:
            seconds = self._retry_after_seconds if measured_seconds is None else math.ceil(measured_seconds)
            headers["Retry-After"] = str(min(max(seconds, 1), RETRY_AFTER_SECONDS_MAX))
        return self._render(request, body, headers)


def install(app: FastAPI, respond: Responder) -> None:
    """Make every error of `app` a response by `respond`."""

    def answer(request: Request, status: int, code: str, title: str, detail: str, **more: Any) -> Response:
        return respond.of_body(request, problem_body(request_id_of(request), status, code, title, detail, **more))

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        # Refusing work is an answer; a dependency that failed is an event.
        if error.__cause__ is not None:
            log.warning("%s: %s (%r)", error.code, error.detail, error.__cause__)
        return respond(request, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            return answer(request, 415, "unsupported_media_type", "The body is not declared as JSON", DECLARE_JSON)
        if first["type"] == "json_invalid":
            why = first.get("ctx", {}).get("error", "")
            return answer(
                request, 400, "malformed_json", "The body is not JSON", f"{why} at {first['loc'][-1]}".strip()
            )
        errors = [{"field": _field(e["loc"]), "message": e["msg"], "type": e["type"]} for e in error.errors()]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
        return answer(request, 422, "invalid_request", "The request is not valid", detail, errors=errors)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        detail = error.detail
        if detail == phrase:
            detail = f"{request.method} {request.url.path}: {phrase.lower()}. The API is described under /docs."
        return answer(request, error.status_code, phrase.lower().replace(" ", "_"), phrase, detail)

    async def on_anything(request: Request, _: Exception) -> Response:
        # Starlette logs the traceback itself; the caller gets none of it.
        said = answer(request, 500, INTERNAL, "Internal error", "This is a fault in Pharos; its log says more.")
        if request_id_of(request):  # Starlette answers faults outside of all middleware, where the id is not echoed
            said.headers[REQUEST_ID_HEADER] = request_id_of(request)
        return said

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_anything)


def request_id_of(request: Request) -> str:
    """The id that the gateway's `RequestIds` gave the request; empty in the model service."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "body") or "body"
