"""A server of Loki's push API that takes nothing Loki would refuse, and says what was wrong.

The limits are the defaults of Loki 3 (limits_config and server in its reference documentation). In one way it is
stricter: labels and fields must be those of contracts/telemetry.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from contracts.telemetry import LOG_FIELDS, LOG_LABELS, LOG_METADATA, REQUEST_FIELDS

PUSH_BYTES_MAX = 4 * 1024 * 1024
"""server.grpc_server_max_recv_msg_size"""
LINE_BYTES_MAX = 256 * 1024
"""max_line_size"""
METADATA_BYTES_MAX = 64 * 1024
METADATA_ENTRIES_MAX = 128
"""max_structured_metadata_size and …_entries_count"""
LABELS_MAX = 15
LABEL_NAME_MAX, LABEL_VALUE_MAX = 1024, 2048
"""max_label_names_per_series, max_label_name_length, max_label_value_length"""
OLDEST_NS = 7 * 24 * 3600 * 10**9
"""reject_old_samples_max_age"""
FUTURE_NS = 10 * 60 * 10**9
"""creation_grace_period"""
BEHIND_NS = 3600 * 10**9
"""Half of ingester.max_chunk_age: how far an entry may be behind the newest of its stream."""

LEVELS = {"debug", "info", "warning", "error", "critical"}


@dataclass(frozen=True, slots=True)
class Say:
    """What the next push is answered with; after `seconds`; `hang` keeps it waiting until the server is stopped."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One accepted line: `fields` is its JSON, `text` the line as it came."""

    labels: dict[str, str]
    ns: int
    text: str
    fields: dict[str, Any]
    metadata: dict[str, str]

    @property
    def message(self) -> str:
        return str(self.fields["message"])


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push, whatever it was answered."""

    at: float
    records: int
    status: int
    headers: dict[str, str]


class LokiServer:
    """Listens on a port that it keeps over `stop` and `start`. `next` are answers for pushes to come, then 204."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.pushes: list[Pushed] = []
        self.violations: list[str] = []
        self.raw: list[bytes] = []
        self.next: deque[Say] = deque()
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._port = 0
        self._server: _Server | None = None
        self._kept: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> LokiServer:
        self._server = _Server(("127.0.0.1", self._port), self)
        if self._kept is not None:
            self._kept.close()
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Nothing listens any more, and connections are broken off."""
        if self._server is not None:
            self._server.end()
            self._server = None
            # Bound without listening: connections are refused, and no one else is given the port.
            self._kept = _bound(self._port)

    def __enter__(self) -> LokiServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._kept is not None:
            self._kept.close()

    def wait_for(self, lines: int = 0, pushes: int = 0, seconds: float = 30) -> None:
        """Until that many lines have been accepted and that many pushes taken, whose answers may not have arrived."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: len(self.lines) >= lines and len(self.pushes) >= pushes, timeout=seconds
            )
        assert came, f"{len(self.lines)} lines in {len(self.pushes)} pushes after {seconds} s"

    def messages(self) -> list[str]:
        return [line.message for line in self.lines]

    def take(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Say:
        """Check a request, keep what it brings, and say how it is to be answered."""
        say = self.next.popleft() if self.next else Say()
        with self._changed:
            before = len(self.violations)
            lines = list(self._checked(method, path, headers, body))
            status = 400 if len(self.violations) > before else say.status
            self.pushes.append(Pushed(time.monotonic(), len(lines), 0 if say.hang else status, headers))
            if status in (200, 204) and not say.hang:
                self.lines += lines
                for line in lines:
                    key = json.dumps(line.labels)
                    self._newest[key] = max(self._newest.get(key, 0), line.ns)
            self._changed.notify_all()
        return dataclasses.replace(say, status=status)

    def _wrong(self, what: str) -> None:
        self.violations.append(what)

    def _checked(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Iterator[Line]:
        if (method, path) != ("POST", "/loki/api/v1/push"):
            self._wrong(f"{method} {path}")
            return
        if headers.get("content-type") != "application/json":
            self._wrong(f"content type {headers.get('content-type')}")
        if (encoding := headers.get("content-encoding", "")) == "gzip":
            body = gzip.decompress(body)
        elif encoding:
            self._wrong(f"encoding {encoding}")
        self.raw.append(body)
        if len(body) > PUSH_BYTES_MAX:
            self._wrong(f"a push of {len(body)} bytes")
        try:
            payload = json.loads(body)
        except ValueError as exc:
            self._wrong(f"not JSON: {exc}")
            return
        if set(payload) != {"streams"} or not payload["streams"]:
            self._wrong(f"members {sorted(payload)}")
            return
        seen = [json.dumps(stream.get("stream"), sort_keys=True) for stream in payload["streams"]]
        if len(set(seen)) != len(seen):
            self._wrong("one stream twice in a push")
        for stream in payload["streams"]:
            yield from self._checked_stream(stream)

    def _checked_stream(self, stream: dict[str, Any]) -> Iterator[Line]:
        labels = stream["stream"]
        if set(stream) != {"stream", "values"} or not stream["values"]:
            self._wrong(f"a stream of {sorted(stream)}")
        for name, value in labels.items():
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or len(name) > LABEL_NAME_MAX:
                self._wrong(f"label name {name}")
            if not isinstance(value, str) or not value or len(value) > LABEL_VALUE_MAX:
                self._wrong(f"label value {value}")
        if tuple(labels) != LOG_LABELS or len(labels) > LABELS_MAX or labels.get("level") not in LEVELS:
            self._wrong(f"labels {labels}")
        last = 0
        for value in stream["values"]:
            line = self._checked_value(labels, value)
            if line.ns < last:
                self._wrong(f"{line.ns} after {last}")
            last = line.ns
            if line.ns < self._newest.get(json.dumps(labels), 0) - BEHIND_NS:
                self._wrong("entry too far behind")
            yield line

    def _checked_value(self, labels: dict[str, str], value: list[Any]) -> Line:
        at, text, *rest = value
        if not isinstance(at, str) or not re.fullmatch(r"\d{19}", at):
            self._wrong(f"timestamp {at!r} is no string of nanoseconds")
        ns, now = int(at), time.time_ns()
        if not now - OLDEST_NS < ns < now + FUTURE_NS:
            self._wrong(f"timestamp {ns} at {now}")
        if not isinstance(text, str) or len(text.encode()) > LINE_BYTES_MAX:
            self._wrong(f"a line of {len(text)} characters")
        metadata = rest[0] if rest else {}
        if len(rest) > 1 or (rest and not metadata):
            self._wrong(f"a value of {len(value)}")
        if not all(isinstance(value, str) and value for value in metadata.values()):
            self._wrong(f"metadata {metadata}")
        if len(metadata) > METADATA_ENTRIES_MAX or len(json.dumps(metadata)) > METADATA_BYTES_MAX:
            self._wrong("too much metadata")
        fields = json.loads(text)
        if unknown := (set(fields) - {*LOG_FIELDS, *REQUEST_FIELDS}) | (set(metadata) - {*LOG_METADATA}):
            self._wrong(f"fields {unknown}")
        if {"time", "level", "logger", "message"} - set(fields) or fields["level"] != labels["level"]:
            self._wrong(f"a line without what all have: {text[:200]}")
        if {name: fields.get(name, "") for name in metadata} != metadata:
            self._wrong(f"metadata {metadata} of {text[:200]}")
        if abs(datetime.fromisoformat(fields["time"]).timestamp() - ns / 1e9) > 0.001:
            self._wrong(f"{fields['time']} at {ns}")
        return Line(labels, ns, text, fields, metadata)


def _bound(port: int) -> socket.socket:
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the server's port may be bound again beside it
    kept.bind(("127.0.0.1", port))
    return kept


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], loki: LokiServer) -> None:
        self.loki = loki
        self.ended = threading.Event()
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what some tests are about."""

    def end(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.ended.is_set():  # it was accepted, and not yet among those that `end` broke off
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length or self.server.ended.is_set():  # broken off
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        say = self.server.loki.take(self.command, self.path, headers, body)
        time.sleep(say.seconds)
        if say.hang:
            self.server.ended.wait()
            self.close_connection = True
            return
        self.send_response(say.status)
        for name, value in say.headers.items():
            self.send_header(name, value)
        reason = b"" if say.status == 204 else b"as the test says"
        if say.status != 204:
            self.send_header("Content-Length", str(len(reason)))
        self.end_headers()
        self.wfile.write(reason)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Not to the console."""
