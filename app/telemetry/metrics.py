"""The gateway's counters and histograms, and what fills them: the records of ended requests, the hooks of batchers."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Histogram

from app import expanding, reranking
from app.asking import NOTHING_RELEVANT
from app.batch_metrics import BatchMetrics, CountedBatches
from app.errors import (
    Draining,
    InvalidRequest,
    Overloaded,
    QuotaExceeded,
    Unauthorized,
    UnknownTopic,
)
from app.telemetry.record import RequestRecord, current_record
from app.telemetry.tokens import TokenFlow
from app.token_stream import TokenStream
from contracts import telemetry
from contracts.telemetry import ALL_TOPICS, OTHER, Outcome, Stage

ASKING = frozenset({"/ask", "/v1/chat/completions"})
"""Where an LLM's answer is asked for."""
TOPICS_MAX = 32
"""Topics with series of their own: those asked about first."""

CACHED = "cached"
"""Why an answer had no first token: it was there."""


class Metrics:
    """All of them, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = telemetry.REQUESTS.counter(registry)
        self._refused = telemetry.REFUSED.counter(registry)
        stages = telemetry.STAGE_SECONDS.histogram(registry)
        self._stage = {stage: stages.labels(stage.value) for stage in Stage}
        self._topic_stage = telemetry.TOPIC_STAGE_SECONDS.histogram(registry)
        self._first_token = telemetry.FIRST_TOKEN_SECONDS.histogram(registry)
        self._no_first_token = telemetry.NO_FIRST_TOKEN.counter(registry)
        self._prompt_tokens = telemetry.PROMPT_TOKENS.counter(registry)
        self._best_score = telemetry.BEST_SCORE.histogram(registry)
        self._not_in_documents = telemetry.NOT_IN_DOCUMENTS.counter(registry)
        self._rerank_skipped = telemetry.RERANK_SKIPPED.counter(registry)
        self._expand_skipped = telemetry.EXPAND_SKIPPED.counter(registry)
        self.batches = BatchMetrics(registry)
        self.token_flow = TokenFlow()
        registry.register(self.token_flow)
        self._topics: dict[str, dict[Stage, Histogram]] = {}
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """rate() does not see the event that a series begins with, so what is sure to be asked for is there before."""
        for outcome in Outcome:
            for route in ASKING:
                self._requests.labels(route, outcome.value)
            self._no_first_token.labels(outcome.value)
        for reason in (NOTHING_RELEVANT, CACHED):
            self._no_first_token.labels(reason)
        for error in (Overloaded, Draining, QuotaExceeded, Unauthorized, InvalidRequest, UnknownTopic):
            self._refused.labels(error.code)
        for skipped in reranking.BEARABLE:
            self._rerank_skipped.labels(skipped.code)
        for reason in (*(failure.code for failure in expanding.BEARABLE), expanding.NOTHING_USABLE):
            self._expand_skipped.labels(reason)

    def rerank_skipped(self, reason: str) -> None:
        """Count a question that kept the order of the search."""
        self._rerank_skipped.labels(reason).inc()

    def expand_skipped(self, reason: str) -> None:
        """Count a question that was searched as it is."""
        self._expand_skipped.labels(reason).inc()

    def ended(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        outcome = record.outcome
        self._requests.labels(record.route, outcome.value).inc()
        if outcome is Outcome.REJECTED and record.problem is not None:
            self._refused.labels(record.problem.code).inc()
        if record.asks:
            self._answered(record, outcome)

    def _answered(self, record: RequestRecord, outcome: Outcome) -> None:
        exemplar = {"trace_id": record.span.trace_id}
        seconds = record.stage_seconds()
        if outcome is Outcome.OK:  # how long a failure took is no latency
            seconds[Stage.TOTAL] = time.monotonic() - record.arrived
        of_topic = self._of_topic(record)
        for stage, value in seconds.items():
            self._stage[stage].observe(value, exemplar)
            if of_topic is not None:
                of_topic[stage].observe(value)
        if record.first_token is not None:
            self._first_token.observe(record.first_token - record.arrived, exemplar)
        else:
            self._no_first_token.labels(_without_first_token(record, outcome)).inc()
        if record.usage is not None:
            self._prompt_tokens.inc(record.usage.prompt_tokens)
        if record.best_score is not None:
            self._best_score.observe(record.best_score)
        if record.passages == 0 and record.cached is None:
            self._not_in_documents.inc()

    def _of_topic(self, record: RequestRecord) -> dict[Stage, Histogram] | None:
        """The series of its topic; None where nothing was searched."""
        if record.topics is None:
            return None
        topic = record.topic
        if topic not in self._topics and topic != ALL_TOPICS and len(self._topics) >= TOPICS_MAX:
            topic = OTHER
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = {stage: self._topic_stage.labels(topic, stage.value) for stage in Stage}
        return found


def _without_first_token(record: RequestRecord, outcome: Outcome) -> str:
    if record.cached is not None:
        return CACHED
    return NOTHING_RELEVANT if record.finish_reason == NOTHING_RELEVANT else outcome.value


class KindWatch(CountedBatches):
    """Implements `app.token_stream.StreamWatch` for one kind of work: encode, search, rerank or generate."""

    def __init__(self, metrics: Metrics, stage: Stage) -> None:
        super().__init__(metrics.batches, stage.value)
        self._stage = stage
        self._flow = metrics.token_flow
        self.tokens = self._flow.add

    def item_ended(self, arrived: float, left: float | None) -> None:
        record = current_record.get()
        if record is not None:
            record.note(Stage.QUEUE, arrived, left)
            if left is not None:
                record.note(self._stage, left)

    def stream_left(self, stream: TokenStream) -> None:
        record = current_record.get()
        if record is not None:
            record.extend(Stage.GENERATE)
            record.first_token = stream.first_token
            record.tokens = stream.tokens
            record.usage = stream.usage
            record.finish_reason = stream.finish_reason
            if stream.first_token is not None and stream.tokens > 1:
                gaps = stream.latest - stream.first_token
                self._flow.exemplify(gaps / (stream.tokens - 1), record.span.trace_id)
