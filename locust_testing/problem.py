"""Answers that are no answers: refused, or failed."""

from __future__ import annotations

import json

DOWN = ("model_service_down", "store_down")
"""503s that are outages: nobody chose to refuse."""


class HttpProblem(Exception):
    """An answer of another status than 200. `retry_after_seconds` where it says so."""

    def __init__(self, status: int, code: str, retry_after_seconds: float | None) -> None:
        super().__init__(f"{status} {code}".strip())
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    @property
    def refused(self) -> bool:
        """The server has too much to do, or the caller asks too much: no fault, come back later."""
        return self.status in (429, 503) and self.retry_after_seconds is not None and self.code not in DOWN


def problem(status: int, content: bytes, retry_after: object) -> HttpProblem:
    """From RFC 9457's body, OpenAI's error object, or neither; Retry-After in seconds, as Pharos gives it."""
    try:
        body = json.loads(content)
        code = str(body.get("error", body).get("code") or "")
    except (ValueError, AttributeError):
        code = ""
    seconds = float(retry_after) if isinstance(retry_after, str) and retry_after.isdecimal() else None
    return HttpProblem(status, code, seconds)
