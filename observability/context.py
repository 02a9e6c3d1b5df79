"""Which request the code that runs now works for, for the lines it logs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class LogContext(NamedTuple):
    """Ids as they are logged; empty where there is none."""

    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""


current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)
"""None outside of requests."""
