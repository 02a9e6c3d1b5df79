"""OpenAI's error object: another way to write the gateway's problems, chosen by the path and nothing else."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from contracts import problems

PREFIX = "/v1/"

_OPENAI_NAMES = {
    "prompt_too_long": (400, "context_length_exceeded"),
    "unauthorized": (401, "invalid_api_key"),
    "quota_exceeded": (429, "rate_limit_exceeded"),
}
"""Problems for which OpenAI has a status and a code of its own; clients act upon them."""


def render(request: Request, body: dict[str, Any], headers: dict[str, str]) -> Response:
    """`contracts.problems.Render`: OpenAI's error object under /v1/, an RFC 9457 problem anywhere else."""
    if not request.url.path.startswith(PREFIX):
        return problems.problem_response(request, body, headers)
    return JSONResponse(error_object(body), _status_and_code(body)[0], headers)


def error_object(body: dict[str, Any]) -> dict[str, Any]:
    """A problem body as `{"error": …}`."""
    status, code = _status_and_code(body)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": body["detail"], "type": kind, "param": body.get("param"), "code": code}}


def _status_and_code(body: dict[str, Any]) -> tuple[int, str]:
    # OpenAI knows no 422: what is not valid is a 400, which its clients raise as BadRequestError.
    status = 400 if body["status"] == 422 else body["status"]
    return _OPENAI_NAMES.get(body["code"], (status, body["code"]))
