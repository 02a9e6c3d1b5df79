"""The dashboards over the real services under a real load: every query has data, and the pictures can be drawn."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from launch import debian
from monitoring.queries import boards, queries
from tests.support import processes
from tests.support.dashboard_queries import unanswered
from tests.support.processes import ROOT, Service, free_port, program_of
from tests.support.prometheus import RULES, Prometheus, prometheus
from tests.support.stack import MIN_SCORE, SAMPLE

LOAD_SECONDS, USERS = 40, 48
RATE_SECONDS = 10
MILVUS_METRICS = "http://127.0.0.1:9091/metrics"
"""Milvus' wheel has no setting for it."""
HAVE = {"milvus", "node", "locust", "ingestion", "rules", "refusals", "failures"}
"""Of monitoring.queries.NEEDS: the engine is simulated, there is no GPU, and nothing is lost, restarted or alerted."""


class Observed(NamedTuple):
    """A Prometheus that has seen a load, and from when until when (Unix seconds)."""

    prometheus: Prometheus
    start: float
    end: float


@pytest.fixture(scope="module")
def observed(milvus_standalone: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Everything there can be without a GPU, containers, Loki and vLLM, with more users than there are places."""
    folder = tmp_path_factory.mktemp("dashboards-stack")
    milvus = milvus_standalone.url
    node_port, ingestion_port, locust_port = free_port(), free_port(), free_port()
    models = processes.simulated_model_service(
        folder / "models.log",
        simulated_first_token_seconds=0.15,
        simulated_token_seconds=0.02,
        simulated_answer_tokens=60,
        simulated_sequences=16,
    )
    small = {f"{kind}_batch_items": 16 for kind in ("encode", "search", "generate")}
    gateway = processes.gateway(
        folder / "gateway.log", models.url, milvus, collection="seen", min_score=MIN_SCORE, requests_max=32, **small
    )
    node = Service(
        "node-exporter",
        [str(program_of(debian.NODE_EXPORTER)), f"--web.listen-address=127.0.0.1:{node_port}"],
        f"http://127.0.0.1:{node_port}",
        folder / "node.log",
        {},
    )

    def ingestion(collection: str, *arguments: str, **settings: object) -> Service:
        return processes.ingestion(
            folder / "ingestion.log", models.url, milvus, "--dataset", SAMPLE, *arguments,
            collection=collection, **settings,
        )  # fmt: skip

    with ExitStack() as stack:
        for service, ready in ((models, processes.answers_ready), (node, processes.listens)):
            stack.callback(service.stop)
            service.start(ready)
        assert ingestion("seen").run() == 0
        stack.callback(gateway.stop)
        gateway.start()
        targets = {
            "app": [gateway.url],
            "app_llm": [models.url],
            "setup_milvus": [f"http://127.0.0.1:{ingestion_port}"],
            "milvus": [MILVUS_METRICS],
            "node": [node.url],
            "locust": [f"http://127.0.0.1:{locust_port}"],
        }
        running = stack.enter_context(prometheus(folder / "prometheus", targets, [RULES / "recording.yml"]))
        start = time.time()
        command = [sys.executable, "-m", "locust_testing", "--host", gateway.url, "--metrics-port", str(locust_port)]
        locust = Service(
            "locust", [*command, "-u", str(USERS), "-t", f"{LOAD_SECONDS}s"], "", folder / "locust.log", {}
        )
        stack.callback(locust.stop)
        locust.start(lambda _: True)
        while time.time() - start < LOAD_SECONDS - 5:
            # Each is scraped for the second or two that it runs.
            job = ingestion("anew", "--recreate", ingest_metrics_host="127.0.0.1", ingest_metrics_port=ingestion_port)
            assert job.run() == 0, job.tail()
        running.wait_until('pharos:slo_errors:ratio_rate3d{slo="ttft"}')
        yield Observed(running, start, time.time())


def test_every_query_has_data(observed: Observed) -> None:
    running, start, end = observed
    assert unanswered(running, HAVE, start, end, rate_seconds=RATE_SECONDS) == []


def test_latencies_have_exemplars_that_lead_to_traces(observed: Observed) -> None:
    running, start, end = observed
    asked = [q for q in queries() if q.board == "service" and "histogram_quantile(0.95, sum by (le)" in q.expr]
    found = {q.title: running.exemplars(q.filled(rate_seconds=RATE_SECONDS), start, end) for q in asked}
    for title in ("Time to the first token", "Time of a whole answer"):
        labels = [exemplar["labels"] for series in found[title] for exemplar in series["exemplars"]]
        assert labels, title
        assert all(len(each["trace_id"]) == 32 for each in labels), labels


def test_pictures_are_drawn_and_small(observed: Observed, tmp_path: Path) -> None:
    running, start, _ = observed
    command = [sys.executable, "-m", "monitoring.render", "--prometheus", running.service.url, "--out", str(tmp_path)]
    drawn = subprocess.run(
        [*command, "--start", str(start), "--scrape-seconds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert {path.stem for path in tmp_path.iterdir()} == set(boards())
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 300_000
        with Image.open(path) as image:
            assert image.width > 1200
            assert len(image.convert("RGB").getcolors(100_000) or ()) > 10, "it is blank"
