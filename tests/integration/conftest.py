"""A gateway over the simulated model service and Milvus Lite, with the sample corpus loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import asking, processes
from tests.support.processes import Service

SAMPLE = "setup_milvus/sample/articles.csv"
MIN_SCORE = 0.2
"""The hash encoder's similarities are lower than a real encoder's."""


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
