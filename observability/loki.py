"""The logging handler that sends to Loki. What it does in the thread that logs is to queue; see loki_sender.py."""

from __future__ import annotations

import logging
from typing import ClassVar

from logging_loki import LokiHandler
from prometheus_client import CollectorRegistry

from observability.log_lines import Lines, capture
from observability.loki_push import LokiPush, push_url
from observability.loki_sender import USUAL, Limits, Sender


class SafeLokiHandler(LokiHandler):  # type: ignore[misc]
    """Never waits, never raises, and takes no lock but logging's own, which is re-entrant.

    `close` does nothing to the sender: logging.config.dictConfig, which vLLM calls, closes all handlers there are. Who
    makes the handler ends `sender`.
    """

    emitters: ClassVar[dict[str, type[LokiPush]]] = {"1": LokiPush}

    def __init__(
        self,
        url: str,
        tags: dict[str, str],
        auth: tuple[str, str] | None,
        lines: Lines,
        registry: CollectorRegistry,
        limits: Limits = USUAL,
    ) -> None:
        super().__init__(push_url(url), tags, auth, version="1")
        self.sender = Sender(lines, self.emitter, registry, limits)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue `record`, unless it tells of the sending, which would feed on itself."""
        if not self.sender.is_current_thread():
            self.sender.put(capture(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """The library's would close the connection in the wrong thread."""
        logging.Handler.handleError(self, record)
