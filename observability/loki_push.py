"""Many log records in one push to Loki.

python-logging-loki pushes one record at a time, with the time of sending and no timeout; its emitter for the v1 API is
the frame of this: address, user, session, labels.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import requests
from logging_loki.emitter import LokiEmitterV1

from observability.log_lines import Line, capture

PUSH_PATH = "/loki/api/v1/push"

GZIP_BYTES_MIN = 1_024
"""A smaller body is one packet either way. Level 1 makes log lines a tenth as large, and does it without the GIL."""
REASON_BYTES_MAX = 300
"""What is read of Loki's reason."""


class Answer(NamedTuple):
    """What Loki said; `retry_after` as it was sent."""

    status: int
    retry_after: str
    reason: str


class LokiPush(LokiEmitterV1):  # type: ignore[misc]
    """Not thread-safe: one thread sends. `tags` are the labels that all records share, `service` and `env`."""

    tags: dict[str, str]

    @property
    def session(self) -> requests.Session:
        """The connection that is kept. Proxies and .netrc of the environment do not count."""
        session: requests.Session = super().session
        session.trust_env = False
        return session

    def build_tags(self, record: logging.LogRecord) -> dict[str, str]:
        """The labels of `record`: contracts.telemetry.LOG_LABELS, and no more."""
        return {**self.tags, "level": capture(record).level}

    def build_payload(self, record: logging.LogRecord, line: str) -> dict[str, Any]:
        """The payload of one record, with the time at which it was logged."""
        entry = capture(record)
        return self.payload([Line(entry.created_ns, entry.level, line, {})])

    def payload(self, batch: Iterable[Line]) -> dict[str, Any]:
        """Streams by their labels, each in the order of time; ids are structured metadata."""
        streams: dict[str, list[list[Any]]] = {}
        for line in sorted(batch, key=lambda line: line.created_ns):
            value: list[Any] = [str(line.created_ns), line.text]
            streams.setdefault(line.level, []).append([*value, line.metadata] if line.metadata else value)
        return {
            "streams": [{"stream": {**self.tags, "level": level}, "values": rows} for level, rows in streams.items()]
        }

    def body(self, batch: Iterable[Line]) -> bytes:
        """The payload as JSON."""
        return msgspec.json.encode(self.payload(batch))

    def push(self, body: bytes, connect_seconds: float, silence_seconds: float) -> Answer:
        """Send a body. Raises requests.RequestException, or urllib3's HTTPError,
        when there is no answer in time."""
        headers = {"Content-Type": "application/json"}
        if len(body) >= GZIP_BYTES_MIN:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        with self.session.post(
            self.url,
            data=body,
            headers=headers,
            timeout=(connect_seconds, silence_seconds),
            allow_redirects=False,
            stream=True,
        ) as answer:
            reason = answer.raw.read(REASON_BYTES_MAX, decode_content=True) or b""
            return Answer(
                answer.status_code, answer.headers.get("Retry-After", ""), reason.decode(errors="replace").strip()
            )

    def forget_connections(self) -> None:
        """After a fork: they are the parent's."""
        self._session = None


def push_url(url: str) -> str:
    """The address of Loki's push API; Grafana Cloud shows it whole, others only its host."""
    return url if url.endswith(PUSH_PATH) else url.rstrip("/") + PUSH_PATH
