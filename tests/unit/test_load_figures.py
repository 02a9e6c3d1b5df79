"""Load tests: figures of several workers add up to the whole, as Prometheus sees it; thresholds are held."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from app.errors import Draining, ModelServiceDown, Overloaded, PharosError, PromptTooLong, QuotaExceeded, StoreDown
from contracts import telemetry
from locust_testing import figures
from locust_testing.collector import FiguresCollector
from locust_testing.figures import Figures, Result
from locust_testing.problem import problem
from locust_testing.thresholds import Observed, Thresholds, misses

seconds = st.one_of(st.sampled_from(telemetry.FIRST_TOKEN_BUCKETS), st.floats(0, 3000))
results = st.builds(
    Result,
    name=st.sampled_from(["ask", "ask_stream"]),
    outcome=st.sampled_from(["ok", "failed", "refused", "left"]),
    seconds=seconds,
    first_token_seconds=st.none() | seconds,
    gaps=st.lists(seconds, max_size=4),
    phase=st.none() | st.sampled_from(["waiting", "first_token", "mid_stream"]),
    implausible=st.booleans(),
)


def exposition(counted: Figures, users: int = 0) -> str:
    registry = CollectorRegistry()
    registry.register(FiguresCollector(counted, lambda: users))
    return generate_latest(registry).decode()


def sample(text: str, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))


@given(st.lists(st.tuples(results, st.integers(0, 2)), max_size=30))
def test_workers_reports_add_up_to_the_whole(given_results: list[tuple[Result, int]]) -> None:
    whole, master, workers = Figures(), Figures(), [Figures() for _ in range(3)]
    for i, (result, worker) in enumerate(given_results):
        whole.add(result)
        workers[worker].add(result)
        if i % 4 == 0:
            master.add_taken(workers[worker].take())
    for worker_figures in workers:
        master.add_taken(worker_figures.take())
        assert worker_figures.take() == {"counters": [], "histograms": []}
    assert master.counters == whole.counters
    assert master.histograms.keys() == whole.histograms.keys()
    for key, counts in whole.histograms.items():
        assert master.histograms[key] == pytest.approx(counts)


@given(st.lists(seconds, min_size=1, max_size=20))
def test_buckets_are_counted_as_prometheus_own_client_counts_them(values: list[float]) -> None:
    counted, registry = Figures(), CollectorRegistry()
    theirs = figures.FIRST_TOKEN_SECONDS.histogram(registry).labels("ask")
    for value in values:
        counted.add(Result("ask", "ok", value, first_token_seconds=value))
        theirs.observe(value)
    ours = exposition(counted)
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith("locust_time_to_first_token_seconds_bucket"):
            assert line in ours
    assert sample(ours, 'locust_time_to_first_token_seconds_sum{name="ask"}') == pytest.approx(sum(values))


def test_the_agreed_names_and_the_gateways_buckets() -> None:
    counted = Figures()
    counted.add(Result("ask_stream", "ok", 1.0, first_token_seconds=0.5, gaps=[0.1]))
    counted.add(Result("ask_leaving", "left", 1.0, phase="waiting"))
    text = exposition(counted, users=7)
    assert sample(text, "locust_users") == 7
    assert sample(text, 'locust_requests_total{method="POST",name="ask_stream",result="ok"}') == 1
    assert sample(text, 'locust_requests_total{method="POST",name="ask_leaving",result="left"}') == 1
    assert sample(text, 'locust_disconnects_total{phase="waiting"}') == 1
    assert sample(text, 'locust_response_time_seconds_count{name="ask_stream"}') == 1
    assert 'locust_response_time_seconds_count{name="ask_leaving"}' not in text
    for metric, buckets in (
        ("time_to_first_token_seconds", telemetry.FIRST_TOKEN_BUCKETS),
        ("inter_token_latency_seconds", telemetry.INTER_TOKEN_BUCKETS),
        ("response_time_seconds", telemetry.DURATION_BUCKETS),
    ):
        for bound in buckets:
            assert f'locust_{metric}_bucket{{le="{float(bound)}",name="ask_stream"}}' in text


def test_what_is_expected_is_served_as_zero_and_changes_no_sum() -> None:
    counted = Figures()
    counted.add(Result("ask", "failed", 1.0))
    counted.expect(["ask"])
    text = exposition(counted)
    assert sample(text, 'locust_requests_total{method="POST",name="ask",result="failed"}') == 1
    assert sample(text, 'locust_requests_total{method="POST",name="ask",result="refused"}') == 0
    assert sample(text, 'locust_implausible_total{name="ask"}') == 0
    assert sample(text, 'locust_disconnects_total{phase="waiting"}') == 0


KEPT = Observed("ask_stream", ok=990, failed=9, refused=400, p95_first_token_seconds=9.9, p95_total_seconds=59.0)


def test_a_run_within_all_thresholds_misses_none() -> None:
    assert misses(Thresholds(), [KEPT, Observed("ask_leaving")]) == []


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        (replace(KEPT, failed=11), "11 of 1,001 requests failed (1.10%)"),
        (replace(KEPT, refused=1000), "1,000 of 1,999 requests were refused"),
        (replace(KEPT, implausible=1), "1 answers were implausible; at most 0 may be."),
        (replace(KEPT, p95_first_token_seconds=10.1), "ask_stream: 95 % of the first tokens came within 10.1 s"),
        (replace(KEPT, p95_total_seconds=61), "ask_stream: 95 % of the answers came within 61 s"),
        (Observed("ask", refused=1), "Not one request was answered."),
    ],
)
def test_each_threshold_that_is_missed_has_a_sentence(observed: Observed, said: str) -> None:
    assert said in " ".join(misses(Thresholds(), [observed]))


def test_a_run_without_any_request_fails() -> None:
    assert misses(Thresholds(), []) == ["Not one request was answered."]


def test_thresholds_are_over_all_kinds_but_times_are_each_kinds_own() -> None:
    slow = Observed("ask", ok=1, p95_total_seconds=70)
    assert [miss.split(":")[0] for miss in misses(Thresholds(), [KEPT, slow])] == ["ask"]


@pytest.mark.parametrize(
    ("error", "retry_after", "refused"),
    [
        (Overloaded(""), "2", True),
        (Draining(""), "2", True),
        (QuotaExceeded(""), "60", True),
        (Overloaded(""), None, False),
        (ModelServiceDown(""), "2", False),
        (StoreDown(""), "2", False),
        (PromptTooLong(""), None, False),
    ],
)
def test_what_is_refused_and_what_has_failed(error: PharosError, retry_after: str | None, refused: bool) -> None:
    body = error.body("id")
    for content in (body, {"error": {"code": body["code"], "message": ""}}):
        said = problem(error.status, json.dumps(content).encode(), retry_after)
        assert said.refused is refused
        assert said.retry_after_seconds == (None if retry_after is None else float(retry_after))
        assert str(said) == f"{error.status} {error.code}"


def test_an_error_page_of_something_else_is_no_refusal() -> None:
    said = problem(503, b"<html>", None)
    assert (str(said), said.refused) == ("503", False)
