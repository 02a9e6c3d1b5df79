"""Spans, the ids a request has without them, and what a backend that is away costs."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import db_attributes, gen_ai_attributes

from contracts.telemetry import Outcome
from observability import semconv
from observability.settings import OFF, TelemetrySettings
from observability.span_export import QUEUE_SPANS, Exporting, NowAndThen
from observability.trace_context import callers_now, current_context, current_headers, on_behalf_of, span_context
from observability.tracing import Tracing, start_tracing
from tests.support.otlp_server import OtlpServer, otlp_server

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
WELL_FORMED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.fixture
def backend() -> Iterator[OtlpServer]:
    with otlp_server() as server:
        yield server


PATIENT = 60.0
"""Seconds that nothing here takes, though a busy machine may take longer than a service would wait in the end."""


def tracing_to(endpoint: str, ratio: float = 1.0) -> Tracing:
    exporting = Exporting("app", settings_of(endpoint, ratio), "1.2.3", send_seconds=PATIENT, shutdown_seconds=PATIENT)
    return Tracing(exporting)


def settings_of(endpoint: str, ratio: float = 1.0) -> TelemetrySettings:
    return TelemetrySettings(_env_file=None, environment="test", traces_endpoint=endpoint, traces_ratio=ratio)


def test_off_a_request_has_ids_of_its_own() -> None:
    tracing = start_tracing("app", OFF, "1.2.3")
    span, other = tracing.begin("GET /"), tracing.begin("GET /")
    assert not tracing.on
    assert not span.recording
    assert not span.sampled
    assert WELL_FORMED.fullmatch(span.traceparent)
    assert span.traceparent[3:52] == f"{span.trace_id}-{span.span_id}"
    assert len({span.trace_id, other.trace_id}) == len({span.span_id, other.span_id}) == 2


def test_off_the_callers_traceparent_goes_on_as_it_is() -> None:
    span = Tracing().begin("GET /", traceparent=SAMPLED, tracestate="vendor=1")
    assert span.headers == {"traceparent": SAMPLED, "tracestate": "vendor=1"}
    assert (span.trace_id, span.span_id, span.sampled) == (TRACE, SPAN, True)
    assert Tracing().begin("GET /", traceparent=UNSAMPLED).sampled is False


def test_off_everything_may_be_called_and_nothing_is_loaded() -> None:
    program = (
        "import sys\n"
        "from observability.settings import OFF\n"
        "from observability.tracing import start_tracing\n"
        "tracing = start_tracing('app', OFF, '1')\n"
        "with tracing.begin('GET /') as span:\n"
        "    span.set({'a': 1})\n"
        "    span.stage('queue', 0.0, 1.0)\n"
        "    span.end({'b': 2}, status=200)\n"
        "tracing.close()\n"
        "sys.exit('opentelemetry.sdk' in sys.modules or 'requests' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "nonsense",
        SAMPLED.upper(),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"{SAMPLED}-more",
        SAMPLED + "-" + "x" * 600,
    ],
)
def test_a_malformed_traceparent_is_as_none(malformed: str, caplog: pytest.LogCaptureFixture) -> None:
    span = Tracing().begin("GET /", traceparent=malformed)
    assert span.trace_id != TRACE
    assert WELL_FORMED.fullmatch(span.traceparent)
    assert caplog.records == []


def test_a_later_version_of_traceparent_is_understood() -> None:
    assert Tracing().begin("GET /", traceparent=f"01-{TRACE}-{SPAN}-01-later").trace_id == TRACE


def test_a_tracestate_that_is_too_long_is_dropped_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    span = Tracing().begin("GET /", traceparent=SAMPLED, tracestate="a=" + "x" * 600)
    assert span.headers == {"traceparent": SAMPLED}
    assert caplog.records == []


def test_a_request_and_its_stages_arrive(backend: OtlpServer) -> None:
    tracing = tracing_to(backend.endpoint)
    before = time.time_ns()
    span = tracing.begin("POST /ask", traceparent=SAMPLED, attributes={semconv.HTTP_ROUTE: "/ask"})
    now = time.monotonic()
    span.stage("queue", now - 0.5, now - 0.25)
    span.stage("search", now - 0.25, now, {semconv.DB_SYSTEM_NAME: semconv.MILVUS}, error="store_down")
    span.end({semconv.PHAROS_TOPIC: "sports"}, outcome=Outcome.ERROR, status=503, error="store_down")
    span.end(outcome=Outcome.OK)
    tracing.close()
    after = time.time_ns()

    request, queue, search = (backend.one(name) for name in ("POST /ask", "queue", "search"))
    assert (request.trace_id, request.parent, request.kind) == (TRACE, SPAN, "SERVER")
    assert before <= request.started_ns <= request.ended_ns <= after
    assert request.failed
    assert request.attributes == {
        "http.route": "/ask",
        "pharos.topic": "sports",
        "pharos.outcome": "error",
        "http.response.status_code": 503,
        "error.type": "store_down",
    }
    assert queue.parent == search.parent == request.span_id == span.span_id
    assert queue.seconds == pytest.approx(0.25, abs=1e-6)
    assert abs(queue.ended_ns - search.started_ns) < 1000
    assert before - 1e6 <= queue.started_ns + 0.5e9 <= after + 1e6
    assert not queue.failed
    assert search.failed
    assert request.scope == "pharos"
    wanted = {"service.name": "app", "service.namespace": "pharos", "service.version": "1.2.3"}
    assert wanted.items() <= request.resource.items()
    assert request.resource["deployment.environment.name"] == "test"


def test_what_goes_downstream_is_this_span(backend: OtlpServer) -> None:
    tracing = start_tracing("app", settings_of(backend.endpoint), "1.2.3")
    assert tracing.on
    span = tracing.begin("POST /ask", traceparent=SAMPLED, tracestate="vendor=1")
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-01"
    assert span.span_id != SPAN
    assert span.headers["tracestate"] == "vendor=1"
    with span:
        assert current_context() == span.context
        assert current_headers() == span.headers
    assert current_context() is None
    assert current_headers() == {}
    tracing.close()


async def test_a_span_that_raises_has_failed_and_says_the_type_only(backend: OtlpServer) -> None:
    async with tracing_to(backend.endpoint) as tracing:
        with pytest.raises(KeyError), tracing.begin("raises"):
            raise KeyError("what somebody asked")
        with pytest.raises(asyncio.CancelledError), tracing.begin("cancelled"):
            raise asyncio.CancelledError
    assert backend.one("raises").failed
    assert backend.one("raises").attributes == {"error.type": "KeyError"}
    assert not backend.one("cancelled").failed
    assert backend.one("cancelled").attributes == {"pharos.outcome": "cancelled"}


def test_the_callers_decision_counts_before_the_ratio(backend: OtlpServer) -> None:
    none_of_ours = tracing_to(backend.endpoint, ratio=0)
    none_of_ours.begin("ours").end()
    none_of_ours.begin("theirs", traceparent=SAMPLED).end()
    none_of_ours.close()
    all_of_ours = tracing_to(backend.endpoint)
    unwanted = all_of_ours.begin("unwanted", traceparent=UNSAMPLED)
    assert not unwanted.sampled
    assert unwanted.trace_id == TRACE
    assert unwanted.traceparent == f"00-{TRACE}-{unwanted.span_id}-00"
    unwanted.stage("queue", 0, 1)
    unwanted.end()
    all_of_ours.close()
    assert [span.name for span in backend.spans] == ["theirs"]


def test_the_ratio_keeps_its_share(backend: OtlpServer) -> None:
    tracing = tracing_to(backend.endpoint, ratio=0.25)
    kept = sum(tracing.begin("GET /").sampled for _ in range(4000))
    tracing.close()
    assert 800 < kept < 1200  # seven standard deviations


def test_a_batch_for_one_request_is_inside_its_trace(backend: OtlpServer) -> None:
    tracing = tracing_to(backend.endpoint)
    caller = span_context(SAMPLED)
    assert caller is not None
    tracing.begin_batch("embeddings", [caller, caller]).end()
    tracing.close()
    batch = backend.one("embeddings")
    assert (batch.trace_id, batch.parent, batch.links, batch.kind) == (TRACE, SPAN, (), "CLIENT")
    assert batch.attributes == {"pharos.batch.callers": 1}


def test_a_batch_for_several_is_linked_to_each(backend: OtlpServer) -> None:
    tracing = tracing_to(backend.endpoint, ratio=0)  # not by the ratio, but since one of them is kept
    kept, other = span_context(SAMPLED), span_context(f"00-{'1' * 32}-{'2' * 16}-00")
    assert kept is not None
    assert other is not None
    tracing.begin_batch("embeddings", [other, kept]).end()
    third = span_context(UNSAMPLED)
    assert third is not None
    dropped = tracing.begin_batch("embeddings", [other, third])
    assert not dropped.sampled
    tracing.close()
    batch = backend.one("embeddings")
    assert batch.parent == ""
    assert batch.trace_id not in (TRACE, "1" * 32)
    assert set(batch.links) == {(TRACE, SPAN), ("1" * 32, "2" * 16)}


async def test_callers_are_told_to_the_task_that_works_for_them() -> None:
    caller = span_context(SAMPLED)
    assert callers_now() == ()
    with on_behalf_of([caller, None]):
        assert callers_now() == (caller,)
        assert await asyncio.create_task(_callers()) == (caller,)
    assert callers_now() == ()


async def _callers() -> tuple[trace.SpanContext, ...]:
    return callers_now()


async def test_a_dead_endpoint_costs_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:  # so that nobody else can listen there
        taken.bind(("127.0.0.1", 0))
        settings = settings_of(f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces")
        tracing = Tracing(Exporting("app", settings, "1.2.3", shutdown_seconds=0.2))
        for _ in range(3 * QUEUE_SPANS):
            tracing.begin("GET /").end()
        await asyncio.to_thread(_until, lambda: "Connection refused" in caplog.text)
        before = len(caplog.records)
        await tracing.__aexit__(None, None, None)
    about = [record.name for record in caplog.records]
    assert about.count("opentelemetry.exporter.otlp.proto.http.trace_exporter") == 1
    assert about.count("opentelemetry.sdk._shared_internal") <= 1
    assert [record.getMessage() for record in caplog.records[before:]] == [
        "the last spans are lost: the endpoint of traces has not taken them in 0.2 s"
    ]


async def test_an_endpoint_that_never_answers_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_of(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        tracing = Tracing(Exporting("app", settings, "1.2.3", send_seconds=3600, shutdown_seconds=3))
        tracing.begin("GET /").end()
        turns = 0
        closing = asyncio.ensure_future(tracing.__aexit__(None, None, None))
        while not closing.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 2  # the loop went on meanwhile, even if the machine has stood still for most of it
        assert "the last spans are lost" in caplog.text
        tracing.close()  # again, which changes nothing


def test_a_backend_that_comes_back_gets_what_waited(backend: OtlpServer) -> None:
    backend.status = 503
    tracing = tracing_to(backend.endpoint)
    tracing.begin("GET /").end()
    backend.wait(lambda it: it.requests, PATIENT)
    backend.status = 200
    backend.wait(lambda it: it.spans, PATIENT)
    tracing.close()
    assert [span.name for span in backend.spans] == ["GET /"]


def test_now_and_then_counts_what_it_keeps_back() -> None:
    clock = 100.0
    now_and_then = NowAndThen(60.0, lambda: clock)

    def said() -> str | None:
        record = logging.LogRecord("a", logging.WARNING, "", 0, "lost %d", (3,), None)
        return record.getMessage() if now_and_then.filter(record) else None

    assert [said(), said(), said()] == ["lost 3", None, None]
    clock += 60
    assert said() == "lost 3 (2 more of such lines in the time before)"
    clock += 60
    assert said() == "lost 3"


def test_otel_sdk_disabled_means_off(monkeypatch: pytest.MonkeyPatch, backend: OtlpServer) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing = start_tracing("app", settings_of(backend.endpoint), "1.2.3")
    assert not tracing.on
    assert WELL_FORMED.fullmatch(tracing.begin("GET /").traceparent)


def test_our_genai_names_are_the_conventions() -> None:
    ours = {name: value for name, value in vars(semconv).items() if name.startswith("GEN_AI_")}
    assert len(ours) > 10
    assert ours == {name: getattr(gen_ai_attributes, name) for name in ours}
    assert semconv.DB_RESPONSE_RETURNED_ROWS == db_attributes.DB_RESPONSE_RETURNED_ROWS
    operations = {value.value for value in _values("GenAiOperationNameValues")}
    assert {semconv.CHAT, semconv.TEXT_COMPLETION, semconv.EMBEDDINGS} <= operations


def _values(name: str) -> list[object]:
    return list(getattr(gen_ai_attributes, name))


def _until(true: Callable[[], bool], seconds: float = PATIENT) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
