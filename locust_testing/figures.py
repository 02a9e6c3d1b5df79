"""What Prometheus is told of a load test: counters and histograms that can be sent from a worker and added up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from contracts import telemetry
from contracts.telemetry import Metric

Outcome = Literal["ok", "failed", "refused", "left"]
"""REFUSED: 503 or 429 with Retry-After; LEFT: the user went away, as it meant to."""
Phase = Literal["waiting", "first_token", "mid_stream"]
"""Where a user left: before the answer's head, before its first token, within its text."""

METHOD = "POST"
"""Of every request that is counted."""
_LOCUST = ("locust",)
USERS = Metric("locust_users", "gauge", _LOCUST, "Users there are now.")
REQUESTS = Metric(
    "locust_requests_total", "counter", _LOCUST, "Requests that have ended.", ("name", "method", "result")
)
RESPONSE_SECONDS = Metric(
    "locust_response_time_seconds", "histogram", _LOCUST,
    "From sending a request to the end of its answer; of complete answers.", ("name",), telemetry.DURATION_BUCKETS,
)  # fmt: skip
FIRST_TOKEN_SECONDS = Metric(
    "locust_time_to_first_token_seconds", "histogram", _LOCUST,
    "From sending a request to its first token with text.", ("name",), telemetry.FIRST_TOKEN_BUCKETS,
)  # fmt: skip
INTER_TOKEN_SECONDS = Metric(
    "locust_inter_token_latency_seconds", "histogram", _LOCUST,
    "Between two token events of one answer, as they reach the client.", ("name",), telemetry.INTER_TOKEN_BUCKETS,
)  # fmt: skip
DISCONNECTS = Metric(
    "locust_disconnects_total", "counter", _LOCUST, "Users who left before the end of their answer.", ("phase",)
)  # fmt: skip
IMPLAUSIBLE = Metric(
    "locust_implausible_total", "counter", _LOCUST, "Answers that cannot be true; they are failures too.", ("name",)
)  # fmt: skip
METRICS = (USERS, REQUESTS, RESPONSE_SECONDS, FIRST_TOKEN_SECONDS, INTER_TOKEN_SECONDS, DISCONNECTS, IMPLAUSIBLE)
"""All of them. The buckets are the gateway's, so that client and server can be laid over each other."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one request went. `name` is the user's task, never a URL. Durations are in seconds.

    `seconds` is the whole time, up to the end or to where the client left. `why` says what failed or who refused.
    """

    name: str
    outcome: Outcome
    seconds: float
    first_token_seconds: float | None = None
    gaps: Sequence[float] = ()
    bytes: int = 0
    why: str = ""
    phase: Phase | None = None
    implausible: bool = False


class Figures:
    """Sums, by metric and label values. Histograms are counts for each bucket (not cumulative), then the sum."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}
        self.histograms: dict[tuple[str, ...], list[float]] = {}

    def expect(self, names: Iterable[str]) -> None:
        """Begin the counters of these at 0, so that a rate knows the first failure from the first scrape."""
        for name in names:
            self._count(IMPLAUSIBLE, name, by=0)
            for outcome in get_args(Outcome):
                self._count(REQUESTS, name, METHOD, outcome, by=0)
        for phase in get_args(Phase):
            self._count(DISCONNECTS, phase, by=0)

    def add(self, result: Result) -> None:
        """Count one result."""
        self._count(REQUESTS, result.name, METHOD, result.outcome)
        if result.implausible:
            self._count(IMPLAUSIBLE, result.name)
        if result.phase is not None:
            self._count(DISCONNECTS, result.phase)
        if result.outcome == "ok":
            self._observe(RESPONSE_SECONDS, [result.seconds], result.name)
        if result.first_token_seconds is not None:
            self._observe(FIRST_TOKEN_SECONDS, [result.first_token_seconds], result.name)
            self._observe(INTER_TOKEN_SECONDS, result.gaps, result.name)

    def take(self) -> dict[str, Any]:
        """All of it as plain lists, for MessagePack; this is empty then."""
        taken = {"counters": list(self.counters.items()), "histograms": list(self.histograms.items())}
        self.counters, self.histograms = {}, {}
        return taken

    def add_taken(self, taken: dict[str, Any]) -> None:
        """What another process has taken."""
        for labels, value in taken["counters"]:
            key = tuple(labels)
            self.counters[key] = self.counters.get(key, 0) + value
        for labels, values in taken["histograms"]:
            key = tuple(labels)
            sums = self.histograms.setdefault(key, [0] * len(values))
            for i, value in enumerate(values):
                sums[i] += value

    def count(self, metric: Metric, *labels: str) -> float:
        """One counter's value."""
        return self.counters.get((metric.name, *labels), 0)

    def labels(self, metric: Metric) -> list[tuple[str, ...]]:
        """Label values that `metric` has been counted with."""
        return sorted(key[1:] for key in (*self.counters, *self.histograms) if key[0] == metric.name)

    def _count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        key = (metric.name, *labels)
        self.counters[key] = self.counters.get(key, 0) + by

    def _observe(self, metric: Metric, values: Iterable[float], *labels: str) -> None:
        counts = self.histograms.setdefault((metric.name, *labels), [0] * (len(metric.buckets) + 2))
        for value in values:
            counts[bisect_left(metric.buckets, value)] += 1
            counts[-1] += value
