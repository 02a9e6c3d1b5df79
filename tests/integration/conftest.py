"""A gateway over the simulated model service and Milvus Lite, with the sample corpus loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import asking, processes
from tests.support.processes import Service
from tests.support.stack import ENDLESS, MIN_SCORE, SAMPLE, SLOTS, Stack
from tests.support.vitals import settled, vitals


@pytest.fixture(scope="session")
def loaded(simulated: Service, milvus_lite: Service, logs: Path) -> str:
    """Name of the collection that holds the sample corpus, by the hash encoder."""
    name = "sample_hash"
    log = logs / "ingestion.log"
    job = processes.ingestion(log, simulated.url, milvus_lite.url, "--dataset", SAMPLE, collection=name)
    assert job.run() == 0, job.tail()
    return name


@pytest.fixture(scope="session")
def gateway(loaded: str, simulated: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    service = processes.gateway(
        logs / "gateway.log", simulated.url, milvus_lite.url, collection=loaded, min_score=MIN_SCORE
    )
    yield service.start()
    service.stop()


@pytest.fixture
def http(gateway: Service) -> Iterator[httpx.Client]:
    with asking.client(gateway.url) as client:
        yield client


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas of four slots each, a gateway and Milvus of the fault tests' own, which they leave as they found
    them. Replicas take 0.2 s to the first token and 0.05 s a token; the gateway loses its patience soon, but not while
    the machine stalls for a second or two, and lets everybody into its queues, however slowly earlier tests drained
    them."""
    stack = Stack(
        tmp_path_factory.mktemp("stack"),
        replica={
            "simulated_first_token_seconds": 0.2,
            "simulated_token_seconds": 0.05,
            "simulated_answer_tokens": ENDLESS,
            "simulated_sequences": SLOTS,
        },
        gateway={
            "replica_probe_seconds": 0.2,
            "model_call_timeout_seconds": 4,
            "model_read_timeout_seconds": 60,
            "milvus_timeout_seconds": 4,
            "body_timeout_seconds": 5,
            "queue_seconds": 3600,
        },
    )
    stack.start()
    before = vitals(stack.gateway)
    yield stack
    after = asyncio.run(settled(stack.gateway, before))
    stack.stop()
    assert after.fds <= before.fds, f"{before} -> {after}"
    assert after.tasks <= before.tasks, f"{before} -> {after}"
