"""Log records as lines: JSON for Loki, plain for a console."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from contracts.telemetry import LOG_FIELDS, LOG_METADATA, REQUEST_FIELDS
from observability.context import LogContext, current
from observability.redaction import Redactor

CONSOLE_FORMAT = "%(levelname)s %(name)s: %(message)s"

TEXT_FIELDS = frozenset({"question", "answer"})

LINE_BYTES_MAX = 196_608
"""Loki refuses lines of more than 262,144 bytes (`max_line_size`)."""
CHARS_MAX = 16_384
"""Of a message or a traceback, of which 10,000 may wait; of fields only if a line is too long. What is cut says so."""

ID_CHARS_MAX = 128
"""Of an id; the gateway takes request ids of 64, and Loki takes 64 KiB of structured metadata."""

_FROM_CALLER = frozenset({"event", *REQUEST_FIELDS})
_IDS = ("request_id", "trace_id", "span_id")
_NOBODY = LogContext()
_PLAIN = frozenset({bool, int, float})
_ORDER = {name: place for place, name in enumerate((*LOG_FIELDS, *REQUEST_FIELDS))}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a log record: nothing that changes later, and nothing that keeps a request's objects alive."""

    created_ns: int
    level: str
    logger: str
    message: str
    exception: str
    context: LogContext
    fields: Mapping[str, Any]


class Line(NamedTuple):
    """What Loki gets of it: `text` is JSON, `metadata` are its contracts.telemetry.LOG_METADATA, where it has them."""

    created_ns: int
    level: str
    text: str
    metadata: dict[str, str]


def capture(record: logging.LogRecord) -> Entry:
    """`record` as of now, in the thread that logs it: this costs microseconds, the line is made elsewhere. Fields are
    given as `extra={"fields": {…}}`. Never raises."""
    try:
        message = record.getMessage()
    except Exception:  # the boundary to every caller's arguments; the console says what is wrong with them
        message = f"{type(record.msg).__name__} whose arguments do not fit"
    fields = getattr(record, "fields", None)
    return Entry(
        int(record.created * 1_000_000) * 1_000,  # a float has no more than microseconds to say
        _level(record.levelno),
        record.name,
        _cut(message, CHARS_MAX),
        _cut(_exception(record), CHARS_MAX),
        current.get() or _NOBODY,
        dict(fields) if isinstance(fields, dict) else {},
    )


class Lines:
    """Makes the JSON line of an entry. Only fields of contracts/telemetry.py are in it; question and answer only with
    `texts`."""

    def __init__(self, redact: Redactor, *, texts: bool) -> None:
        self._redact = redact
        self._allowed = _FROM_CALLER if texts else _FROM_CALLER - TEXT_FIELDS

    def line(self, entry: Entry) -> Line:
        """Its text has at most LINE_BYTES_MAX of UTF-8, and is always one JSON object. Never raises."""
        values = self._values(entry)
        metadata = {name: str(values[name]) for name in LOG_METADATA if name in values}
        chars = CHARS_MAX
        encoded = msgspec.json.encode(values)
        while len(encoded) > LINE_BYTES_MAX:
            shorter = {name: _cut(value, chars) if isinstance(value, str) else value for name, value in values.items()}
            encoded = msgspec.json.encode(shorter)
            chars //= 4
        return Line(entry.created_ns, entry.level, encoded.decode(), metadata)

    def _values(self, entry: Entry) -> dict[str, object]:
        seconds, ns = divmod(entry.created_ns, 1_000_000_000)
        values: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ns // 1000:06d}Z",
            "level": entry.level,
            "logger": entry.logger,
            "message": self._clean(entry.message),
        }
        for name in _IDS:
            value = entry.fields.get(name) or getattr(entry.context, name)
            if value:
                values[name] = str(self._clean(value))[:ID_CHARS_MAX]
        if entry.exception:
            values["exception"] = self._clean(entry.exception)
        for name, value in entry.fields.items():
            if name in self._allowed and value is not None:
                values[name] = value if type(value) in _PLAIN else self._clean(value)
        return dict(sorted(values.items(), key=lambda item: _ORDER[item[0]]))

    def _clean(self, value: object) -> object:
        if isinstance(value, bool | int | float):
            return value
        try:
            text = str(value)
        except Exception:  # as above: anything may be logged
            text = type(value).__name__
        text = self._redact(text)
        # Half of a surrogate pair has no UTF-8.
        return text if text.isascii() else text.encode("utf-8", "replace").decode()


class ConsoleFormatter(logging.Formatter):
    """For people, with the same things taken out."""

    def __init__(self, redact: Redactor, format: str = CONSOLE_FORMAT) -> None:
        super().__init__(format)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def _level(number: int) -> str:
    """One of five, so that the label has no more values than that."""
    for name in ("critical", "error", "warning", "info"):
        if number >= getattr(logging, name.upper()):
            return name
    return "debug"


def _exception(record: logging.LogRecord) -> str:
    """The traceback, if any, as text: the traceback itself would hold every local of a failed request."""
    text = record.exc_text or ""
    if not text and record.exc_info and record.exc_info[1] is not None:
        try:
            text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        except Exception:  # an exception whose own text fails
            text = type(record.exc_info[1]).__name__
    return f"{text}\n{record.stack_info}".strip("\n") if record.stack_info else text


def _cut(text: str, chars: int) -> str:
    """The beginning and, since a traceback says what happened at its end, the end."""
    if len(text) <= chars:
        return text
    return f"{text[: chars // 2]} … ({len(text) - chars:,} characters cut) … {text[len(text) - chars // 2 :]}"
