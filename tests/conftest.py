"""Fixtures: the real services, each started once for the whole run and only when a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import processes
from tests.support.cross_encoders import tiny_cross_encoder
from tests.support.otlp_server import OtlpServer, otlp_server
from tests.support.processes import Service


class ByServices(LoadScopeScheduling):  # type: ignore[misc]
    """Where two processes run the tests (`make test`), a file's tests stay in one, since they share services; and so do
    all that need real vLLM or Milvus Standalone, of which a machine bears one (Standalone has a fixed port). Not by
    xdist's `loadgroup`: with pytest 9.2 its marks group nothing."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        real = file.startswith(("tests/contract/", "tests/e2e/")) or "standalone" in nodeid
        return "real services" if real else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServices:
    return ByServices(config, log)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the services' output goes."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def simulated(logs: Path) -> Iterator[Service]:
    """app_llm with the simulated engine: 20 ms to the first token, 10 ms a token, 32 tokens."""
    service = processes.simulated_model_service(
        logs / "simulated.log",
        simulated_first_token_seconds=0.02,
        simulated_token_seconds=0.01,
        simulated_answer_tokens=32,
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="session")
def trace_backend() -> Iterator[OtlpServer]:
    """Where `models` sends its traces."""
    with otlp_server() as server:
        yield server


@pytest.fixture(scope="session")
def models(logs: Path, trace_backend: OtlpServer) -> Iterator[Service]:
    """app_llm with the real SentenceTransformer and real vLLM."""
    # float32: the same answers on every processor.
    service = processes.model_service(
        logs / "models.log",
        dtype="float32",
        kv_cache_gib=1,
        max_sequences=16,
        traces_endpoint=trace_backend.endpoint,
        environment="test",
    )
    yield service.start(seconds=300)
    service.stop()


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder with a window of 128 tokens; its exports are made once for all tests."""
    return tiny_cross_encoder(tmp_path_factory.mktemp("models") / "tiny", window=128)


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Service]:
    """Milvus Lite as a server."""
    service = processes.milvus_lite(tmp_path_factory.mktemp("milvus-lite"), logs / "milvus-lite.log")
    yield service.start(processes.listens)
    service.stop()


@pytest.fixture(scope="session")
def milvus_standalone(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Service]:
    """A real Milvus Standalone."""
    service = processes.milvus_standalone(tmp_path_factory.mktemp("milvus"), logs / "milvus-standalone.log")
    yield service.start(processes.serves_milvus)
    service.stop()


@pytest.fixture(params=["milvus_lite", "milvus_standalone"])
def milvus(request: pytest.FixtureRequest) -> Service:
    """Each kind of Milvus in turn."""
    service: Service = request.getfixturevalue(request.param)
    return service
