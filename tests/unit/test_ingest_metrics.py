"""The ingestion job's metrics: hooks, and an endpoint that is there while the job runs."""

from __future__ import annotations

import logging
import socket
import threading
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry

from contracts import telemetry
from contracts.telemetry import Metric
from setup_milvus.ingest import Step
from setup_milvus.instrumented import Metrics, served
from tests.support.asking import eventually
from tests.support.processes import free_port
from tests.support.scraping import faults

HOST = "127.0.0.1"
BY_OTHERS = {telemetry.LOKI_SENT, telemetry.LOKI_DROPPED, telemetry.LOKI_QUEUED}
"""Of all services, and registered by whoever sends logs."""
METRICS = [m for m in telemetry.METRICS if telemetry.SETUP in m.services and m not in BY_OTHERS]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, metric: Metric, **labels: str) -> float:
    found = registry.get_sample_value(metric.name, labels)
    assert found is not None
    return found


def scrape(port: int) -> str:
    return httpx.get(f"http://{HOST}:{port}/metrics", trust_env=False).raise_for_status().text


def no_more_than(threads: list[threading.Thread]) -> bool:
    """Whether none has been added. (Some may have ended: those of the tests before.)"""
    return set(threading.enumerate()) <= set(threads)


def test_the_endpoint_has_every_metric_of_the_job_while_it_runs(registry: CollectorRegistry) -> None:
    metrics, port = Metrics(registry), free_port()
    threads = threading.enumerate()
    with served(registry, HOST, port), metrics.running(7):
        text = scrape(port)
        assert faults(text, METRICS) == []
        assert "pharos_ingest_running 1.0" in text
        assert "process_resident_memory_bytes" in text
    with pytest.raises(httpx.ConnectError):
        scrape(port)
    # The thread that has answered a scrape ends when it likes.
    assert eventually(lambda: no_more_than(threads), 30)


def test_after_a_failure_nothing_is_under_way_and_the_endpoint_is_gone(registry: CollectorRegistry) -> None:
    metrics, port = Metrics(registry), free_port()

    def fail() -> None:
        with served(registry, HOST, port), metrics.running(7):
            metrics.on_read(7, 9)
            assert "pharos_ingest_lag_passages 9.0" in scrape(port)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert value(registry, telemetry.INGEST_RUNNING) == 0
    assert value(registry, telemetry.INGEST_LAG) == 0
    with pytest.raises(httpx.ConnectError):
        scrape(port)


def test_the_same_port_can_be_taken_again_at_once(registry: CollectorRegistry) -> None:
    port = free_port()
    for _ in range(3):
        with served(registry, HOST, port):
            scrape(port)


def test_a_port_that_is_taken_is_a_warning(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with served(registry, HOST, port):
            assert value(registry, telemetry.BUILD_INFO, **dict(_labels(registry))) == 1, "the job goes on"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{HOST}:{port} cannot be taken" in caplog.text


def _labels(registry: CollectorRegistry) -> dict[str, str]:
    (sample,) = [s for f in registry.collect() if f.name == telemetry.BUILD_INFO.name for s in f.samples]
    return sample.labels


def test_port_0_serves_nothing_and_says_nothing(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.enumerate()
    with served(registry, HOST, 0):
        assert no_more_than(threads)
    assert caplog.records == []


def test_what_is_read_is_lag_until_it_is_done(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    with metrics.running(10):
        assert value(registry, telemetry.INGEST_ROWS) == 10
        started = value(registry, telemetry.INGEST_PROGRESS_TIME)
        assert started == pytest.approx(time.time(), abs=60)
        metrics.on_read(6, 8)
        metrics.on_read(4, 3)
        assert value(registry, telemetry.INGEST_ROWS_READ) == 10
        assert value(registry, telemetry.INGEST_LAG) == 11
        assert value(registry, telemetry.INGEST_PROGRESS_TIME) == started, "reading is no progress yet"
        metrics.on_step(Step(passages=8, documents=5, stored=6, present=2))
        assert value(registry, telemetry.INGEST_LAG) == 3
        assert value(registry, telemetry.INGEST_DOCUMENTS) == 5
        assert value(registry, telemetry.INGEST_PASSAGES, result="stored") == 6
        assert value(registry, telemetry.INGEST_PASSAGES, result="present") == 2
        assert value(registry, telemetry.INGEST_PROGRESS_TIME) > started


def test_a_dry_run_stores_nothing(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    with metrics.running(10):
        metrics.on_read(10, 8)
        metrics.on_step(Step(passages=8, documents=5))
        assert value(registry, telemetry.INGEST_LAG) == 0
        assert value(registry, telemetry.INGEST_DOCUMENTS) == 0
