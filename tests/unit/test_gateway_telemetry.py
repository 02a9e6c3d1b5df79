"""The gateway's record of a request, and the counts that are made of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from app.asking import NOTHING_RELEVANT
from app.telemetry.dependencies import watched_dependencies
from app.telemetry.metrics import TOPICS_MAX, KindWatch, Metrics
from app.telemetry.record import Problem, RequestRecord, current_record
from app.telemetry.tokens import TokenFlow
from app.token_stream import TokenStream
from contracts import telemetry
from contracts.telemetry import LOG_FIELDS, REQUEST_FIELDS, Outcome, Stage
from contracts.types import Delta, Usage
from observability.tracing import Tracing


def record(**known: object) -> RequestRecord:
    """Of a question that was answered, but for what is `known`."""
    made = RequestRecord("an-id", "POST", "/ask", asks=True, span=Tracing().begin("POST /ask"))
    for name, value in {"status": 200, "topics": ("science",), **known}.items():
        setattr(made, name, value)
    return made


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        ({}, Outcome.OK),
        ({"status": 304}, Outcome.OK),
        ({"status": 499}, Outcome.CANCELLED),
        ({"left": True}, Outcome.CANCELLED),
        ({"left": True, "problem": Problem(502, "model_service_failed")}, Outcome.CANCELLED),
        ({"status": 422, "problem": Problem(422, "invalid_request")}, Outcome.REJECTED),
        ({"status": 429, "problem": Problem(429, "quota_exceeded")}, Outcome.REJECTED),
        ({"status": 503, "problem": Problem(503, "overloaded")}, Outcome.REJECTED),
        ({"status": 503, "problem": Problem(503, "draining")}, Outcome.REJECTED),
        ({"status": 503, "problem": Problem(503, "store_down")}, Outcome.ERROR),
        ({"status": 502, "problem": Problem(502, "model_service_failed")}, Outcome.ERROR),
        ({"status": 504, "problem": Problem(504, "deadline_exceeded")}, Outcome.TIMEOUT),
        ({"status": 200, "problem": Problem(504, "deadline_exceeded")}, Outcome.TIMEOUT),  # in a stream
        ({"status": 500}, Outcome.ERROR),
        ({"status": None}, Outcome.ERROR),
    ],
)
def test_every_end_has_one_outcome(known: dict[str, object], outcome: Outcome) -> None:
    assert record(**known).outcome is outcome


def test_visits_of_a_stage_add_up_and_its_last_can_be_extended() -> None:
    made = record()
    made.note(Stage.QUEUE, 1.0, 1.5)
    made.note(Stage.QUEUE, 3.0, 3.25)
    made.note(Stage.GENERATE, 4.0, 4.5)
    assert made.stage_seconds() == {Stage.QUEUE: 0.75, Stage.GENERATE: 0.5}
    made.extend(Stage.GENERATE)
    assert made.stages[-1].began == 4.0
    assert made.stages[-1].ended > 4.5
    assert made.stages[:2] == [(Stage.QUEUE, 1.0, 1.5), (Stage.QUEUE, 3.0, 3.25)]


def test_a_log_line_has_only_fields_that_are_known() -> None:
    everything = record(
        problem=Problem(502, "model_service_failed"),
        api_key="team",
        passages=3,
        best_score=0.5,
        first_token=1.0,
        tokens=4,
        usage=Usage(10, 4),
        finish_reason="stop",
        cached="exact",
        question="?",
        expansion=("Other words?",),
        answer="!",
    )
    for stage in Stage:
        if stage is not Stage.TOTAL:
            everything.note(stage, 0.0, 1.0)
    assert set(everything.fields()) == {"request_id", "trace_id", "span_id", *REQUEST_FIELDS}
    assert not set(LOG_FIELDS) & set(REQUEST_FIELDS)
    assert "first_token_seconds" not in record().fields()


def test_a_failure_counts_the_stages_it_came_through_and_no_total() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    failed = record(status=502, problem=Problem(502, "model_service_failed"))
    failed.note(Stage.ENCODE, 0.0, 1.0)
    metrics.ended(failed)
    assert sample(registry, "pharos_stage_duration_seconds_count", stage="encode") == 1
    assert sample(registry, "pharos_stage_duration_seconds_count", stage="total") == 0
    assert sample(registry, "pharos_no_first_token_total", reason="error") == 1
    metrics.ended(record(finish_reason=NOTHING_RELEVANT, passages=0))
    assert sample(registry, "pharos_stage_duration_seconds_count", stage="total") == 1
    assert sample(registry, "pharos_no_first_token_total", reason=NOTHING_RELEVANT) == 1
    assert sample(registry, "pharos_not_in_documents_total") == 1


def test_a_request_that_never_left_the_queue_says_how_long_it_waited() -> None:
    watch = KindWatch(Metrics(CollectorRegistry()), Stage.GENERATE)
    late = record(status=504, problem=Problem(504, "deadline_exceeded"))
    token = current_record.set(late)
    arrived = time.monotonic() - 3
    watch.item_ended(arrived, None)
    current_record.reset(token)
    stages = late.stage_seconds()
    assert stages.keys() == {Stage.QUEUE}
    assert 3 <= stages[Stage.QUEUE] <= time.monotonic() - arrived
    assert "generate_seconds" not in late.fields()


def test_topics_beyond_the_first_are_others_and_where_nothing_was_searched_there_is_none() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for _ in range(TOPICS_MAX + 10):
        metrics.ended(record(topics=None, status=422, problem=Problem(422, "unknown_topic")))
    for i in range(TOPICS_MAX + 10):
        metrics.ended(record(topics=(f"topic-{i}",)))
    name = "pharos_topic_stage_duration_seconds_count"
    topics = {s.labels["topic"]: s.value for family in registry.collect() for s in family.samples if s.name == name}
    assert len(topics) == TOPICS_MAX + 1
    assert topics[telemetry.OTHER] == 10
    assert None not in topics


def test_a_question_about_several_topics_or_none_is_about_all() -> None:
    assert [record(topics=topics).topic for topics in ((), ("a", "b"), ("a",))] == ["all", "all", "a"]


def test_the_flow_of_tokens_is_what_a_histogram_of_the_library_would_say() -> None:
    gaps = [0.0, 0.005, 0.01, 0.0100001, 0.03, 0.4, 79.9, 80, 81]
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    flow = TokenFlow()
    ours.register(flow)
    histogram = telemetry.INTER_TOKEN_SECONDS.histogram(theirs)
    tokens = telemetry.GENERATION_TOKENS.counter(theirs)
    flow.add(None, 1)
    tokens.inc()
    for gap in gaps:
        flow.add(gap, 1)
        histogram.observe(gap)
        tokens.inc()
    flow.add(0.06, 3)  # three tokens that came as one
    for _ in range(3):
        histogram.observe(0.02)
    tokens.inc(3)

    def values(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels.get("le", "")): pytest.approx(sample.value)
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert values(ours) == values(theirs)
    assert generate_latest(ours)


async def test_a_check_that_breaks_is_a_dependency_that_is_down_and_the_others_are_asked_on() -> None:
    registry = CollectorRegistry()
    asked = asyncio.Event()
    rounds = 0

    async def broken() -> bool:
        raise RuntimeError("of the client's own")

    async def well() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            asked.set()
        return True

    async with watched_dependencies(registry, {"milvus": broken, "model_service": well}, every_seconds=0):
        await asyncio.wait_for(asked.wait(), 60)
        assert registry.get_sample_value("pharos_dependency_up", {"dependency": "milvus"}) == 0
        assert registry.get_sample_value("pharos_dependency_up", {"dependency": "model_service"}) == 1


async def test_latencies_carry_their_trace_as_an_exemplar() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    answered = record(first_token=None)
    answered.first_token = answered.arrived + 0.3
    metrics.ended(answered)
    stream = TokenStream("a-prompt")
    for i in range(5):
        stream.put(Delta("a-prompt", "a", 1), 10 + i / 4)
    token = current_record.set(answered)
    KindWatch(metrics, Stage.GENERATE).stream_left(stream)
    current_record.reset(token)
    exemplars = {
        s.name: s.exemplar.labels for family in registry.collect() for s in family.samples if s.exemplar is not None
    }
    assert set(exemplars) == {
        "pharos_stage_duration_seconds_bucket",
        "pharos_time_to_first_token_seconds_bucket",
        "pharos_inter_token_latency_seconds_bucket",
    }
    assert all(labels == {"trace_id": answered.span.trace_id} for labels in exemplars.values())
    pauses = [s for family in registry.collect() for s in family.samples if s.name.startswith("pharos_inter_token")]
    assert {s.labels["le"]: s.exemplar.value for s in pauses if s.exemplar} == {"0.3": 0.25}
    assert f'trace_id="{answered.span.trace_id}"' in generate_latest(registry).decode()
