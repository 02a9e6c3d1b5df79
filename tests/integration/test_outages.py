"""A dependency that is down gives 502 or 503 at once, and is used again when it is back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import asking, processes

QUESTION = {"question": "How much did Norvane Foods agree to pay for Bellmarsh Dairy?", "max_tokens": 4}
SAMPLE = "setup_milvus/sample/articles.csv"
AT_ONCE_SECONDS = 20.0
"""A refusal has come by then, on a machine that stalls. Where nobody lost patience it would take 120 s, all the time
that a request has."""


class Stack:
    """Three services of this test's own, which it may kill. The two behind the gateway keep their ports. An answer may
    take 100 s; the gateway waits 2 s for Milvus."""

    def __init__(self, folder: Path) -> None:
        self.models = processes.simulated_model_service(
            folder / "models.log", simulated_token_seconds=0.05, simulated_answer_tokens=2000
        )
        self.milvus = processes.milvus_lite(folder / "milvus", folder / "milvus.log")
        self.gateway = processes.gateway(
            folder / "gateway.log", self.models.url, self.milvus.url, min_score=0.2, milvus_timeout_seconds=2
        )
        self.job = processes.ingestion(
            folder / "job.log", self.models.url, self.milvus.url, "--dataset", SAMPLE, ingest_retry_seconds=120
        )

    def stop(self) -> None:
        for service in (self.gateway, self.models, self.milvus):
            service.stop()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    yield stack
    stack.stop()


def refused(http: httpx.Client, code: str) -> None:
    """Both kinds of answer are refused, at once, with Retry-After and no traceback."""
    for stream in (False, True):
        started = time.monotonic()
        response = http.post("/ask", json={**QUESTION, "stream": stream})
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert response.status_code in (502, 503)
        assert int(response.headers["retry-after"]) >= 1
        problem = response.json()
        assert problem["code"] == code
        assert problem["retryable"] is True
        assert "Traceback" not in response.text


def answered(http: httpx.Client, within_seconds: float = 90) -> None:
    """It answers again, without a restart of the gateway."""
    deadline = time.monotonic() + within_seconds
    while (response := http.post("/ask", json=QUESTION)).status_code != 200:
        assert time.monotonic() < deadline, response.text
        time.sleep(0.2)
    assert response.json()["sources"]


def noticed(http: httpx.Client, check: str, within_seconds: float = 90) -> None:
    """The gateway has asked again, which it does every second, and knows that this one is back."""
    deadline = time.monotonic() + within_seconds
    while not http.get("/readyz").json()["checks"][check]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_gateway_starts_alone_and_recovers_from_every_outage(stack: Stack) -> None:
    stack.gateway.start(processes.answers_healthy)
    with asking.client(stack.gateway.url) as http:
        assert http.get("/readyz").json()["checks"] == {"model_service": False, "milvus": False}
        refused(http, "model_service_down")
        assert http.get("/topics").status_code == 503

        stack.models.start()
        noticed(http, "model_service")
        refused(http, "store_down")

        stack.milvus.start(processes.listens)
        assert stack.job.run() == 0, stack.job.tail()
        answered(http)
        noticed(http, "milvus")
        assert asking.eventually(lambda: http.get("/readyz").status_code == 200)

        stack.milvus.kill()
        refused(http, "store_down")
        stack.milvus.start(processes.listens)
        answered(http)

        stack.models.kill()
        refused(http, "model_service_down")
        stack.models.start()
        answered(http)


def test_a_model_service_killed_mid_stream_ends_the_stream_with_one_error(stack: Stack) -> None:
    stack.models.start()
    stack.milvus.start(processes.listens)
    assert stack.job.run() == 0, stack.job.tail()
    stack.gateway.start()
    body = {**QUESTION, "max_tokens": 2000, "stream": True}
    names = []
    with asking.client(stack.gateway.url) as http:
        answered(http)  # what is slow the first time is done
        with http.stream("POST", "/ask", json=body) as response:
            for name, last in asking.events(response):
                names.append(name)
                data = last
                if names.count("token") == 2 and name == "token":
                    stack.models.kill()
    assert names[-1] == "error"
    assert names.count("error") == 1
    assert "done" not in names
    assert data["retryable"] is True


def test_a_milvus_that_hangs_is_an_answer_too(stack: Stack) -> None:
    stack.models.start()
    stack.milvus.start(processes.listens)
    assert stack.job.run() == 0, stack.job.tail()
    stack.gateway.start()
    with asking.client(stack.gateway.url) as http:
        answered(http)
        assert stack.milvus.process is not None
        os.kill(stack.milvus.process.pid, signal.SIGSTOP)
        refused(http, "store_down")
        os.kill(stack.milvus.process.pid, signal.SIGCONT)
        answered(http)


def test_sigterm_lets_running_answers_finish(stack: Stack) -> None:
    stack.models.start()
    stack.milvus.start(processes.listens)
    assert stack.job.run() == 0, stack.job.tail()
    stack.gateway.start()
    names = []
    body = {**QUESTION, "max_tokens": 60, "stream": True}
    with asking.client(stack.gateway.url) as http:
        answered(http)  # what is slow the first time is done
        with http.stream("POST", "/ask", json=body) as response:
            text = ""
            for name, data in asking.events(response):
                names.append(name)
                text += data.get("text", "")
                if names.count("token") == 1 and name == "token":
                    assert stack.gateway.process is not None
                    stack.gateway.process.terminate()
    assert names[-1] == "done"
    assert len(text.split()) == 60  # where the gateway reads late, two tokens come in one event
