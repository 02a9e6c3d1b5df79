"""Where good ends, each named once: for the colours of the dashboards, the rules of Prometheus and the load tests."""

from __future__ import annotations

from contracts.telemetry import FIRST_TOKEN_BUCKETS, Outcome

AVAILABILITY_TARGET = 0.995
"""Share of requests that must not fail by our fault."""
TTFT_TARGET = 0.95
"""Share of first tokens that must come within TTFT_SLO_SECONDS."""
TTFT_SLO_SECONDS = 2.5
"""On a GPU. One of the histogram's boundaries, so that its bucket counts exactly those in time."""
assert TTFT_SLO_SECONDS in FIRST_TOKEN_BUCKETS

FAILED_OUTCOMES = (Outcome.ERROR, Outcome.TIMEOUT)
OUR_REFUSALS = ("overloaded", "draining")
"""Reasons of `pharos_refused_total` that are no fault of the caller. These and FAILED_OUTCOMES use up the budget."""

BURN_RATE_FAST = 14.4
"""Times the even pace: a thirty days' budget is gone in two days, and 2 % of it in an hour. The factors and windows are
those of Google's SRE workbook, chapter 5."""
BURN_RATE_SLOW = 6.0
BURN_RATE_EVEN = 1.0
BURN_FAILURES_MIN = 10
"""Fewer failures in the longer of its windows page nobody: of the three requests of a quiet night one is a third."""

SATURATION_HIGH = 0.8
SATURATION_FULL = 0.95
"""Shares of a limit: places of requests, queues, processors, memory."""
KV_CACHE_FULL = 0.95
PREEMPTIONS_PER_SECOND = 0.1
PREEMPTIONS_PER_PROMPT = 0.2
"""A storm is both: many, and many of what runs. Each preempted prompt is computed again from its beginning."""
EVENT_LOOP_LAG_SECONDS = 0.1
PAUSE_SECONDS = 0.05

ANSWER_SECONDS_SLOW = 10.0
ANSWER_SECONDS_BAD = 30.0
INTER_TOKEN_SECONDS_SLOW = 0.1
INTER_TOKEN_SECONDS_BAD = 0.25
"""Four tokens a second: about as fast as people read."""
STAGE_SECONDS_SLOW = 0.1
STAGE_SECONDS_BAD = 0.5
"""For each stage before the model answers: together they should not be felt."""

NOT_IN_DOCUMENTS_HIGH = 0.5
INGEST_STALLED_SECONDS = 180.0
"""Less than PHAROS_INGEST_RETRY_SECONDS (300), after which a job that gets no answer ends by itself."""
GPU_CELSIUS_HIGH = 80.0
GPU_CELSIUS_BAD = 90.0
