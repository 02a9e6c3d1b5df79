"""A whole Pharos over two simulated replicas, whose parts a test may kill, stop and stand in for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import asking, processes
from tests.support.processes import Service

SAMPLE = "setup_milvus/sample/articles.csv"
QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
MIN_SCORE = 0.2
"""The hash encoder's similarities are lower than a real encoder's."""

SLOTS = 4
"""Prompts that each replica of the fault tests runs at the same time."""

ENDLESS = 2000
"""Tokens of an answer that no replica of the fault tests ends before a test does: 100 s."""


class Stack:
    """Two replicas that keep their ports, Milvus Lite with the sample, and a gateway.

    The gateway knows a third address, `faulty_port`, at which nothing listens unless a test puts something there.
    `replica` are PHAROS_LLM_* settings, `gateway` are PHAROS_* settings, in lower case.
    """

    def __init__(self, folder: Path, *, replica: dict[str, object], gateway: dict[str, object]) -> None:
        self._folder = folder
        self.replicas = [
            processes.simulated_model_service(folder / f"replica-{i}.log", processes.free_port(), **replica)
            for i in (1, 2)
        ]
        self.milvus = processes.milvus_lite(folder / "milvus", folder / "milvus.log")
        self.faulty_port = processes.free_port()
        self.urls = [*(service.url for service in self.replicas), f"http://127.0.0.1:{self.faulty_port}"]
        self.gateway = self._gateway("gateway", self.urls, gateway)

    def another_gateway(self, name: str, *, urls: list[str] | None = None, **settings: object) -> Service:
        """A gateway of other settings over the same services, to be started."""
        return self._gateway(name, urls or self.urls, settings)

    def _gateway(self, name: str, urls: list[str], settings: dict[str, object]) -> Service:
        given = {"min_score": MIN_SCORE, **settings}
        return processes.gateway(self._folder / f"{name}.log", ",".join(urls), self.milvus.url, **given)

    def start(self) -> Stack:
        """Start everything, load the sample, and warm the gateway up."""
        starts: list[Callable[[], Service]] = [replica.start for replica in self.replicas]
        with ThreadPoolExecutor() as threads:
            for started in [threads.submit(start) for start in [*starts, self._start_milvus]]:
                started.result()
        job = processes.ingestion(
            self._folder / "ingestion.log", self.replicas[0].url, self.milvus.url, "--dataset", SAMPLE
        )
        assert job.run() == 0, job.tail()
        warm(self.gateway.start())
        return self

    def _start_milvus(self) -> Service:
        return self.milvus.start(processes.listens)

    def stop(self) -> None:
        for service in (self.gateway, *self.replicas, self.milvus):
            service.stop()


def warm(gateway: Service) -> None:
    """Let it connect, load the tokenizer and start its threads, so that what it holds then is what it needs."""
    with asking.client(gateway.url) as http:
        for stream in (False, True, False, True):
            http.post("/ask", json={"question": QUESTION, "max_tokens": 2, "stream": stream}).raise_for_status()
            http.get("/metrics").raise_for_status()


def held(replica: Service) -> int:
    """Prompts that a model service holds now."""
    return asking.held(replica.url)
