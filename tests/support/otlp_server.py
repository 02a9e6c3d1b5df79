"""A trace backend: takes OTLP over HTTP/protobuf as the specification says, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Received:
    """One span. `parent` is empty for a root; `links` are (trace, span) ids; times are nanoseconds since 1970."""

    service: str
    resource: dict[str, Any]
    scope: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    started_ns: int
    ended_ns: int
    failed: bool

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e9


class OtlpServer:
    """`spans` are all that came, in that order. With a `status` other than 200 they are refused and not kept."""

    def __init__(self) -> None:
        self.status = 200
        self.requests = 0
        self.spans: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Received:
        (span,) = self.named(name)
        return span

    def wait(self, enough: Callable[[OtlpServer], object], seconds: float = 60) -> None:
        """Returns once `enough` of this server is true; fails with what there is when it never is."""
        deadline = time.monotonic() + seconds
        while not enough(self):
            assert time.monotonic() < deadline, [(span.service, span.name) for span in self.spans]
            time.sleep(0.02)

    def serve(self) -> None:
        self._server.serve_forever(0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.requests += 1
                status = server.status
                if self.path != "/v1/traces" or self.headers["content-type"] != PROTOBUF:
                    status = 404
                if status == 200:
                    if self.headers.get("content-encoding") == "gzip":
                        body = gzip.decompress(body)
                    server.spans += _read(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", PROTOBUF)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@contextmanager
def otlp_server() -> Iterator[OtlpServer]:
    """One that listens."""
    server = OtlpServer()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join()


def _read(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        _received(span, _attributes(of_resource.resource.attributes), of_scope.scope.name)
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _received(span: trace_pb2.Span, resource: dict[str, Any], scope: str) -> Received:
    return Received(
        service=resource["service.name"],
        resource=resource,
        scope=scope,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
