"""How a request is counted, and what its response says, when it ends in no usual way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.main import create_app
from app.routes import sse
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.middleware import Observed
from app.telemetry.record import current_record
from contracts.problems import PROBLEM
from observability.settings import TelemetrySettings
from observability.span_export import Exporting
from observability.tracing import Tracing
from tests.support.otlp_server import otlp_server


class Gateway:
    """A whole gateway whose dependencies are never asked, and its counts."""

    def __init__(self, **settings: object) -> None:
        self.registry = CollectorRegistry()
        self.app: FastAPI = create_app(Settings(_env_file=None, **settings), registry=self.registry)
        self.sent: list[Message] = []

    async def ask(self, path: str, *messages: Message, method: str = "POST", **headers: str) -> None:
        coming = list(messages or [{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            if coming:
                return coming.pop(0)
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            self.sent.append(message)

        sent = {"content-type": "application/json", "x-request-id": "my-request", **headers}
        raw = [(name.encode(), value.encode()) for name, value in sent.items()]
        scope: Scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}
        await self.app(scope, receive, send)

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of `name` that are not zero, by the values of their labels."""
        samples = [sample for family in self.registry.collect() for sample in family.samples if sample.name == name]
        return {tuple(sample.labels.values()): sample.value for sample in samples if sample.value}


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def test_a_fault_is_an_error_and_echoes_the_request_id(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    @gateway.app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("of ours")

    with pytest.raises(RuntimeError, match="of ours"):  # for the server's log
        await gateway.ask("/broken", method="GET")
    start = gateway.sent[0]
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-request-id"] == b"my-request"
    assert gateway.counted("pharos_requests_total") == {("/broken", "error"): 1}
    (line,) = [record.fields for record in caplog.records if record.name == "app.requests"]
    assert (line["status"], line["code"]) == (500, "internal")


@pytest.mark.parametrize("path", ["/ask", "/v1/chat/completions"])
async def test_a_client_that_leaves_while_sending_is_not_refused(gateway: Gateway, path: str) -> None:
    part = {"type": "http.request", "body": b'{"question":', "more_body": True}
    await gateway.ask(path, part, {"type": "http.disconnect"})
    assert gateway.counted("pharos_requests_total") == {(path, "cancelled"): 1}
    assert gateway.counted("pharos_refused_total") == {}


async def test_a_stream_that_the_server_ends_as_it_stops_is_no_answer(gateway: Gateway) -> None:
    begun = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        begun.set()
        await asyncio.Event().wait()

    @gateway.app.post("/endless")
    async def endless() -> Response:
        return sse.EventStream(b"", events(), bytes, lambda _: b"", 15)

    body = {"type": "http.request", "body": b"", "more_body": False}
    asking = asyncio.ensure_future(gateway.ask("/endless", body))
    await begun.wait()
    asking.cancel()  # as uvicorn does after its grace period
    await asyncio.gather(asking, return_exceptions=True)
    assert gateway.counted("pharos_requests_total") == {("/endless", "error"): 1}


async def test_a_request_over_its_keys_quota_says_whose_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "app.requests")
    gateway = Gateway(api_keys={"team": {"key": "key-of-the-team", "requests_per_minute": 1}})
    for _ in range(2):
        await gateway.ask("/ask", authorization="Bearer key-of-the-team")
    lines = [record.fields for record in caplog.records if record.name == "app.requests"]
    assert [(line["code"], line["api_key"]) for line in lines] == [
        ("invalid_request", "team"),
        ("quota_exceeded", "team"),
    ]


async def test_what_a_requests_span_says() -> None:
    async def nothing_more() -> Message:
        raise AssertionError("nobody reads the body")

    async def heard(_: Message) -> None: ...

    async def answer(scope: Scope, _: Receive, send: Send) -> None:
        record = current_record.get()
        assert record is not None
        record.topics, record.passages, record.best_score = ("science",), 3, 0.5
        scope["state"][PROBLEM] = (502, "model_service_failed")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

    with otlp_server() as backend:
        settings = TelemetrySettings(_env_file=None, traces_endpoint=backend.endpoint)
        # In the end it waits for a busy machine longer than a service would.
        async with Tracing(Exporting("app", settings, "1.2.3", shutdown_seconds=60)) as tracing:
            observed = Observed(answer, Metrics(CollectorRegistry()), tracing, ["/ask"])
            scope = {"type": "http", "method": "POST", "path": "/ask", "headers": [], "state": {"request_id": "mine"}}
            await observed(scope, nothing_more, heard)
        span = backend.one("POST /ask")
    assert span.failed
    assert span.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/ask",
        "error.type": "model_service_failed",
        "gen_ai.usage.output_tokens": 0,
        "pharos.request_id": "mine",
        "pharos.outcome": "error",
        "pharos.problem.code": "model_service_failed",
        "pharos.stream": True,
        "pharos.topic": "science",
        "pharos.passages": 3,
        "pharos.best_score": 0.5,
    }
