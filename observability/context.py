"""Which request a piece of code works for, so that its log lines can say so."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogContext:
    """Ids of the request being served; empty where there is none. Trace and span are W3C Trace Context's, in hex."""

    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""


current: ContextVar[LogContext | None] = ContextVar("pharos_log_context", default=None)
"""Set where a request comes in; tasks and threads that asyncio starts for it inherit it."""
