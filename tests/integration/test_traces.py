"""One trace from whoever calls the gateway to the model service's spans, between two processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.batching import BatchLimits
from app.errors import ModelServiceDown
from app.merging import MergingEncoder
from app.replicated import ReplicatedEncoder, ReplicatedGenerator
from app.retrieval import Question, Retriever
from app.telemetry.traced import TracedEncoder, TracedStore
from contracts.types import Delta, Message, Passage, Prompt, Sampling
from observability.settings import TelemetrySettings
from observability.span_export import Exporting
from observability.trace_context import on_behalf_of
from observability.tracing import OpenSpan, Tracing
from tests.support import processes
from tests.support.otlp_server import OtlpServer, Received, otlp_server
from tests.support.processes import Service

TRACES = ("1" * 32, "2" * 32, "3" * 32)
CALLER = "a" * 16
LONG = 3000
"""Tokens, which take half a minute: time to leave, also on a busy machine."""


def traceparent(trace: str, sampled: bool = True) -> str:
    return f"00-{trace}-{CALLER}-0{int(sampled)}"


@pytest.fixture(scope="module")
def backend() -> Iterator[OtlpServer]:
    with otlp_server() as server:
        yield server


@pytest.fixture(scope="module")
def traced(backend: OtlpServer, logs: Path) -> Iterator[Service]:
    """app_llm that sends its traces to `backend`."""
    service = model_service(logs / "traced.log", backend.endpoint)
    yield service.start()
    service.stop()


@pytest.fixture(autouse=True)
def _nothing_from_before(backend: OtlpServer) -> None:
    backend.spans.clear()


def model_service(log: Path, endpoint: str) -> Service:
    return processes.simulated_model_service(
        log,
        simulated_first_token_seconds=0.05,
        simulated_token_seconds=0.01,
        simulated_answer_tokens=LONG,
        traces_endpoint=endpoint,
        environment="test",
    )


def tracing_to(endpoint: str) -> Tracing:
    """As `start_tracing` makes it, but with patience: on a busy machine its end would lose spans after two seconds."""
    settings = TelemetrySettings(_env_file=None, environment="test", traces_endpoint=endpoint)
    return Tracing(Exporting("app", settings, "1.2.3", send_seconds=60, shutdown_seconds=60))


def prompt(request_id: str, traced: str | None, text: str | None = None, max_tokens: int = 4) -> Prompt:
    messages = () if text else (Message("user", "Tell me about the sea."),)
    return Prompt(request_id, messages, text, Sampling(max_tokens=max_tokens, seed=7), traceparent=traced)


async def ends(service: Service, prompts: list[Prompt]) -> dict[str, Delta]:
    found: dict[str, Delta] = {}
    async with processes.replicas(service.url) as replicas:
        async for frame in ReplicatedGenerator(replicas).generate(prompts):
            found |= {delta.request_id: delta for delta in frame.deltas if delta.finish_reason}
    return found


def of_trace(backend: OtlpServer, trace: str) -> Received:
    (span,) = [span for span in backend.spans if span.trace_id == trace]
    return span


async def test_each_prompt_of_a_batch_is_in_its_own_requests_trace(backend: OtlpServer, traced: Service) -> None:
    async with tracing_to(backend.endpoint) as tracing:
        requests = [tracing.begin("POST /ask", traceparent=traceparent(trace)) for trace in TRACES[:2]]
        batch = [prompt(f"p{i}", request.traceparent) for i, request in enumerate(requests)]
        found = await ends(traced, [*batch, prompt("alone", None)])
        for request in requests:
            request.end(status=200)
    assert {delta.finish_reason for delta in found.values()} == {"length"}
    backend.wait(lambda it: len(it.spans) == 5)
    for request, trace in zip(requests, TRACES, strict=False):
        gateway, model = (
            next(span for span in backend.spans if span.trace_id == trace and span.service == service)
            for service in ("app", "app_llm")
        )
        assert gateway.parent == CALLER
        assert model.parent == gateway.span_id == request.span_id
        assert (model.name, model.kind) == ("chat simulated", "SERVER")
        assert model.resource["deployment.environment.name"] == "test"
        # One machine, one clock.
        assert gateway.started_ns <= model.started_ns < model.ended_ns <= gateway.ended_ns
    (alone,) = [span for span in backend.spans if span.trace_id not in TRACES]
    assert alone.parent == ""


async def test_what_a_prompts_span_says(backend: OtlpServer, traced: Service) -> None:
    await ends(traced, [prompt("p", traceparent(TRACES[0])), prompt("raw", traceparent(TRACES[1]), "one two three")])
    backend.wait(lambda it: len(it.spans) == 2)
    said = dict(of_trace(backend, TRACES[0]).attributes)
    # A loop's clock counts in milliseconds, so that it may wait one too few.
    assert 0.045 <= said.pop("gen_ai.response.time_to_first_chunk") < of_trace(backend, TRACES[0]).seconds
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "simulated",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "p",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 4,
        "pharos.outcome": "ok",
    }
    raw = of_trace(backend, TRACES[1])
    assert raw.name == "text_completion simulated"
    assert raw.attributes["gen_ai.usage.input_tokens"] == 3


async def test_a_prompt_that_is_refused_left_or_aborted_ends_its_span(backend: OtlpServer, traced: Service) -> None:
    await ends(traced, [prompt("long", traceparent(TRACES[0]), "word " * 5000), prompt("good", None)])
    async with processes.replicas(traced.url) as replicas:
        generator = ReplicatedGenerator(replicas)
        async with aclosing(generator.generate([prompt("left", traceparent(TRACES[1]), max_tokens=LONG)])) as frames:
            await anext(frames)
        async for _ in generator.generate([prompt("aborted", traceparent(TRACES[2]), max_tokens=LONG)]):
            await generator.abort(["aborted"])
    backend.wait(lambda it: set(TRACES) <= {span.trace_id for span in it.spans})
    refused, left, aborted = (of_trace(backend, trace) for trace in TRACES)
    assert refused.failed
    assert refused.attributes["error.type"] == "prompt_too_long"
    assert not left.failed
    assert left.attributes["pharos.outcome"] == "cancelled"
    assert not aborted.failed
    assert aborted.attributes["pharos.outcome"] == "cancelled"
    assert aborted.attributes["gen_ai.response.finish_reasons"] == ["abort"]


async def test_an_unsampled_or_malformed_parent_loses_nobody_an_answer(backend: OtlpServer, traced: Service) -> None:
    async with httpx.AsyncClient(base_url=traced.url, timeout=60, trust_env=False) as http:
        few = {"prompt": "one", "max_tokens": 4}
        bodies = [
            {"request_id": "unwanted", "traceparent": traceparent(TRACES[0], sampled=False)},
            {"request_id": "malformed", "traceparent": ["what", 1]},
        ]
        answer = await http.post("/generate", json={"prompts": [{**body, **few} for body in bodies]})
        assert answer.text.count('"finish_reason":"length"') == 2
        # Whoever calls without a gateway may say it in the header.
        headers = {"traceparent": traceparent(TRACES[1])}
        await http.post("/generate", json={"prompts": [{"request_id": "h", **few}]}, headers=headers)
    backend.wait(lambda it: len(it.spans) == 2)
    assert of_trace(backend, TRACES[1]).parent == CALLER
    malformed = next(span for span in backend.spans if span.trace_id != TRACES[1])
    assert malformed.attributes["gen_ai.response.id"] == "malformed"
    assert malformed.parent == ""


@asynccontextmanager
async def retrieving(service: Service, tracing: Tracing) -> AsyncIterator[Retriever]:
    """Encoding by `service`, one call at a time so that what comes meanwhile is one batch; searching in memory."""
    async with processes.replicas(service.url) as replicas:
        encoder = MergingEncoder(
            TracedEncoder(ReplicatedEncoder(replicas), tracing),
            slice_texts=16,
            limits=BatchLimits(16, 64, 1, batch_cost=16),
        )
        memory = MemoryStore()
        memory.add([Passage("1", "1", "The sea", "nature", "", "It is wide.", 0.0)], np.eye(1, 384, dtype=np.float32))
        store = TracedStore(memory, tracing, "articles")
        retriever = Retriever(encoder, store, search_limits=BatchLimits(16, 64, 1), min_score=-1)
        async with encoder.batcher, retriever:
            yield retriever


async def asked(retriever: Retriever, tracing: Tracing, trace: str) -> OpenSpan:
    with tracing.begin("POST /ask", traceparent=traceparent(trace)) as span:
        await retriever.retrieve(Question("Where is the sea?", (), 3))
    return span


async def test_encoding_and_searching_for_one_request_are_in_its_trace(backend: OtlpServer, traced: Service) -> None:
    async with tracing_to(backend.endpoint) as tracing, retrieving(traced, tracing) as retriever:
        request = await asked(retriever, tracing, TRACES[0])
    backend.wait(lambda it: len(it.spans) == 4)
    assert {span.trace_id for span in backend.spans} == {TRACES[0]}
    call, served, search = (backend.one(name) for name in ("embeddings", "embeddings hash", "search articles"))
    assert (call.service, call.kind, call.parent) == ("app", "CLIENT", request.span_id)
    assert (served.service, served.kind, served.parent) == ("app_llm", "SERVER", call.span_id)
    assert (search.service, search.kind, search.parent) == ("app", "CLIENT", request.span_id)
    for span in (call, served):
        assert span.attributes["pharos.encode.texts"] == 1
        assert span.attributes["pharos.encode.texts_truncated"] == 0
        assert span.attributes["gen_ai.usage.input_tokens"] == 4
        assert span.attributes["gen_ai.embeddings.dimension.count"] == 384
    assert served.attributes["gen_ai.request.model"] == "hash"
    assert served.attributes["pharos.queue.seconds"] >= 0
    assert search.attributes == {
        "pharos.batch.callers": 1,
        "db.system.name": "milvus",
        "db.operation.name": "search",
        "db.collection.name": "articles",
        "db.operation.batch.size": 1,
        "db.response.returned_rows": 1,
    }


async def test_encoding_and_searching_for_several_are_linked_to_each(backend: OtlpServer, traced: Service) -> None:
    async with tracing_to(backend.endpoint) as tracing, retrieving(traced, tracing) as retriever:
        requests = await asyncio.gather(*(asked(retriever, tracing, trace) for trace in TRACES))
    backend.wait(lambda it: len(it.spans) == 6)
    links = {(request.trace_id, request.span_id) for request in requests}
    assert {trace for trace, _ in links} == set(TRACES)
    call, served, search = (backend.one(name) for name in ("embeddings", "embeddings hash", "search articles"))
    for batch in (call, search):
        assert set(batch.links) == links
        assert batch.parent == ""
        assert batch.attributes["pharos.batch.callers"] == 3
    assert (served.trace_id, served.parent) == (call.trace_id, call.span_id)
    assert served.attributes["pharos.encode.texts"] == 3


async def test_a_call_that_fails_says_why_in_its_span(backend: OtlpServer) -> None:
    nobody = f"http://127.0.0.1:{processes.free_port()}"
    async with tracing_to(backend.endpoint) as tracing, processes.replicas(nobody) as replicas:
        with tracing.begin("POST /ask", traceparent=traceparent(TRACES[0])) as request:
            encoder = TracedEncoder(ReplicatedEncoder(replicas), tracing)
            with on_behalf_of([request.context]), pytest.raises(ModelServiceDown):
                await encoder.encode(["one"])
    backend.wait(lambda it: len(it.spans) == 2)
    call = backend.one("embeddings")
    assert call.parent == request.span_id
    assert call.failed
    assert call.attributes["error.type"] == "ModelServiceDown"
    assert not backend.one("POST /ask").failed


async def test_listing_topics_is_inside_the_request_that_caused_it(backend: OtlpServer) -> None:
    memory = MemoryStore()
    memory.add([Passage("1", "1", "The sea", "nature", "", "It is wide.", 0.0)], np.eye(1, 384, dtype=np.float32))
    async with tracing_to(backend.endpoint) as tracing:
        store = TracedStore(memory, tracing, "articles")
        with tracing.begin("GET /topics", traceparent=traceparent(TRACES[0])) as request:
            assert [topic.topic for topic in await store.topics()] == ["nature"]
            assert await store.topic_names() == ["nature"]
    backend.wait(lambda it: len(it.spans) == 3)
    for name in ("topics articles", "topic_names articles"):
        span = backend.one(name)
        assert (span.parent, span.kind) == (request.span_id, "CLIENT")
        assert span.attributes["db.operation.name"] == "query"  # Milvus' own word


async def test_off_here_the_model_service_is_told_of_the_callers_own_span(backend: OtlpServer, traced: Service) -> None:
    async with retrieving(traced, Tracing()) as retriever:
        request = await asked(retriever, Tracing(), TRACES[0])
        await ends(traced, [prompt("p", request.traceparent)])
    backend.wait(lambda it: len(it.spans) == 2)
    assert {(span.service, span.trace_id, span.parent) for span in backend.spans} == {("app_llm", TRACES[0], CALLER)}


async def test_off_there_nothing_is_sent_and_prompts_run(backend: OtlpServer, simulated: Service) -> None:
    assert (await ends(simulated, [prompt("p", traceparent(TRACES[0]))]))["p"].finish_reason == "length"
    async with httpx.AsyncClient(base_url=simulated.url, timeout=60, trust_env=False) as http:
        headers = {"traceparent": traceparent(TRACES[0])}
        assert (await http.post("/encode", json={"texts": ["one"]}, headers=headers)).status_code == 200
    assert backend.spans == []


async def test_a_dead_backend_costs_no_request_and_no_time_to_stop(logs: Path) -> None:
    service = model_service(logs / "dead.log", f"http://127.0.0.1:{processes.free_port()}/v1/traces").start()
    try:
        batches = [
            ends(service, [prompt(f"{i}-{j}", traceparent(TRACES[0])) for j in range(50)]) for i in range(10)
        ]  # fmt: skip
        found = await asyncio.gather(*batches)
        assert [len(batch) for batch in found] == [50] * 10
        assert {delta.finish_reason for batch in found for delta in batch.values()} == {"length"}
        async with processes.replicas(service.url) as replicas:
            assert (await ReplicatedEncoder(replicas).encode(["one"])).vectors.dtype == np.float32
    finally:
        service.stop()
    log = service.log.read_text()
    assert log.count("encountered while exporting spans") == 1
    assert "the last spans are lost" in log
    assert "Finished server process" in log  # by itself; `stop` would kill it after 15 s
