"""What an operator sees of a Pharos under load: real SentenceTransformer, vLLM, Milvus Standalone, two gateways, an
ingestion job, Locust, Prometheus with the shipped rules, and servers that speak Loki's and OTLP's protocols.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from contracts import telemetry
from contracts.telemetry import APP, APP_LLM, METRICS, SETUP
from launch import debian
from monitoring.queries import NEEDS, queries
from tests.support import asking, logql, processes
from tests.support.dashboard_queries import unanswered
from tests.support.loki_server import Line, LokiServer
from tests.support.otlp_server import OtlpServer
from tests.support.processes import ROOT, Service
from tests.support.prometheus import RULES, Prometheus, prometheus
from tests.support.scraping import faults, scrape, scrape_openmetrics

SAMPLE = "setup_milvus/sample/articles.csv"
QUESTION = "When will the comet found by Hendrik Uirab be nearest to us?"
LOAD_SECONDS = 45
RATE_SECONDS = 30
ABSENT = {"gpu", "dcgm", "reranker", "caches", "expansion", "drops", "alerts", "restarts", "loki"}
"""No GPU, no reranker, no caches, no expansion; nothing is lost, fires or starts anew; Loki's own queries are held
against its lines below."""
HAVE = {need for _, need in NEEDS} - ABSENT


@dataclass(frozen=True)
class Seen:
    """All that came of one load run between two Unix times."""

    prometheus: Prometheus
    gateways: list[Service]
    loki: LokiServer
    traces: OtlpServer
    up: dict[str, list[float]]
    load_output: str
    load_status: int
    start: float
    end: float


def gateway(log: Path, models: Service, milvus: Service, loki: LokiServer, traces: OtlpServer) -> Service:
    service = processes.gateway(
        log,
        models.url,
        milvus.url,
        collection="observed",
        environment="test",
        loki_url=loki.url,
        traces_endpoint=traces.endpoint,
        milvus_timeout_seconds=5,  # two cores do everything here
    )
    return service.start()


def load(folder: Path, host: str, port: int) -> subprocess.Popen[str]:
    folder.mkdir()
    options = ["--host", host, "-u", "5", "-t", f"{LOAD_SECONDS}s", "--max-tokens", "12", "--metrics-port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "locust_testing", *options, "--max-p95-first-token-seconds", "60"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def what_goes_wrong(host: str) -> None:
    """Refusals and failures, so that they can be seen."""
    with asking.client(host) as http:
        for _ in range(3):
            http.post("/ask", json={"question": ""})
            http.post("/ask", json={"question": QUESTION, "topic": "no such topic"})
            http.post("/ask", json={"question": QUESTION}, headers={"X-Request-Timeout": "0.001"})
            http.post("/ask", json={"question": "How do I configure a DNS server?"})
            time.sleep(1)


@pytest.fixture(scope="module")
def seen(
    models: Service,
    milvus_standalone: Service,
    trace_backend: OtlpServer,
    logs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("observed")
    milvus, locust_port, ingest_port, node_port = milvus_standalone, *(processes.free_port() for _ in range(3))

    def ingestion(collection: str, **settings: object) -> Service:
        log = logs / f"{collection}.log"
        return processes.ingestion(log, models.url, milvus.url, "--dataset", SAMPLE, collection=collection, **settings)

    loaded = ingestion("observed")
    assert loaded.run() == 0, loaded.tail()
    with ExitStack() as stack:
        loki = stack.enter_context(LokiServer())
        gateways = []
        for name in ("observed-1", "observed-2"):
            gateways.append(gateway(logs / f"{name}.log", models, milvus, loki, trace_backend))
            stack.callback(gateways[-1].stop)
        node = Service(
            "node",
            [str(processes.program_of(debian.NODE_EXPORTER)), f"--web.listen-address=127.0.0.1:{node_port}"],
            f"http://127.0.0.1:{node_port}",
            logs / "node.log",
            {},
        )
        stack.callback(node.start(processes.listens).stop)
        targets = {
            APP: [service.url for service in gateways],
            APP_LLM: [models.url],
            SETUP: [f"http://127.0.0.1:{ingest_port}"],
            "milvus": ["http://127.0.0.1:9091/metrics"],
            "node": [node.url],
            "locust": [f"http://127.0.0.1:{locust_port}"],
        }
        watching = stack.enter_context(prometheus(folder, targets, sorted(RULES.glob("*.yml")), interval_seconds=1))
        everything = sum(map(len, targets.values()))
        watching.wait_until(f"count(up) == {everything}")  # some of them down as yet
        start = time.time()
        running = load(folder / "load", gateways[0].url, locust_port)
        stack.callback(running.kill)
        # In small pieces, so that the job is there for as long as the load.
        job = ingestion("observed_again", ingest_metrics_port=ingest_port, ingest_batch_passages=4, ingest_in_flight=1)
        job.start(lambda _: True)
        stack.callback(job.stop)
        what_goes_wrong(gateways[1].url)
        # At that moment: a scrape of a busy service may fail in the next.
        moment = float(watching.wait_until(f"sum(up) == {everything}")[0]["value"][0])
        up = {
            name: [float(series["value"][1]) for series in watching.query(f'up{{job="{name}"}}', moment)]
            for name in targets
        }
        output, _ = running.communicate(timeout=300)
        watching.wait_for_rules()
        watching.wait_until('pharos:slo_errors:ratio_rate3d{slo="ttft"}', 240)
        end = time.time()
        yield Seen(watching, gateways, loki, trace_backend, up, output, running.returncode, start, end)


def test_everything_is_up(seen: Seen) -> None:
    assert seen.up == {APP: [1, 1], APP_LLM: [1], SETUP: [1], "milvus": [1], "node": [1], "locust": [1]}


def test_the_load_test_passes(seen: Seen) -> None:
    assert seen.load_status == 0, seen.load_output


def test_every_query_of_every_dashboard_has_data(seen: Seen) -> None:
    without = unanswered(seen.prometheus, HAVE, seen.start, seen.end, rate_seconds=RATE_SECONDS)
    assert not without, "\n".join(without)


def test_every_rule_evaluates_and_every_recording_has_series(seen: Seen) -> None:
    rules = seen.prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert recorded
    assert [name for name in recorded if not seen.prometheus.query(name)] == []


def test_no_alert_fires_but_for_what_we_did(seen: Seen) -> None:
    """The job and the load test end while Prometheus watches, which is no alarm."""
    firing = {series["metric"]["alertname"] for series in seen.prometheus.query('ALERTS{alertstate="firing"}')}
    assert firing & {"TargetDown", "NoGateway", "NoReadyReplica", "MilvusDown", "LogsDropped"} == set()


def test_what_a_gateway_serves_is_the_table_and_nothing_else(seen: Seen) -> None:
    url = seen.gateways[1].url
    with asking.client(url) as http:
        http.post("/ask", json={"question": QUESTION, "topic": "science", "max_tokens": 2}).raise_for_status()
    text = httpx.get(url + "/metrics", timeout=60, trust_env=False).text
    mine = [metric for metric in METRICS if APP in metric.services]
    assert faults(text, mine) == []
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE pharos_")}
    assert {name for name in names if not name.endswith("_created")} == {metric.name for metric in mine}


def test_sums_over_gateways_are_right(seen: Seen) -> None:
    seen.prometheus.wait_for_scrapes(1)
    each = [scrape(service.url).value("pharos_requests_total", route="/ask") for service in seen.gateways]
    assert all(each)
    seen.prometheus.wait_until(f'sum(pharos_requests_total{{route="/ask"}}) == {sum(each)}')


def requests(seen: Seen) -> list[Line]:
    """The log lines of requests to /ask."""
    return [
        line
        for line in seen.loki.lines
        if line.fields.get("event") == telemetry.REQUEST_EVENT and line.fields["route"] == "/ask"
    ]


def test_every_request_has_one_log_line_with_its_times(seen: Seen) -> None:
    counted = sum(scrape(service.url).value("pharos_requests_total", route="/ask") for service in seen.gateways)
    assert asking.eventually(lambda: len(requests(seen)) >= counted, seconds=60)
    lines = requests(seen)
    assert len(lines) == counted
    assert len({line.fields["request_id"] for line in lines}) == counted
    assert seen.loki.violations == []
    answered = [
        line.fields for line in lines if line.fields["outcome"] == "ok" and "first_token_seconds" in line.fields
    ]
    assert answered
    for fields in answered:
        stages = ("queue", "encode", "search", "prompt", "generate")
        parts = sum(fields[f"{stage}_seconds"] for stage in stages)
        assert parts == pytest.approx(fields["total_seconds"], rel=0.25, abs=0.1), fields
        assert fields["first_token_seconds"] <= fields["total_seconds"]
    assert {line.fields["outcome"] for line in lines} >= {"ok", "rejected", "timeout", "cancelled"}


def test_every_question_to_loki_is_about_lines_that_are_sent(seen: Seen) -> None:
    """Each field and label that a query names is in some line of this run; the labels are the ones there are."""
    lines = seen.loki.lines
    assert {name for line in lines for name in line.labels} == set(telemetry.LOG_LABELS)
    sent = {name for line in lines for name in (*line.fields, *line.labels, *line.metadata)}
    asked = [query for query in queries() if query.datasource == "loki"]
    assert asked
    for query in asked:
        named = logql.names(query.filled(rate_seconds=60))
        assert named <= sent | {"exception"}, f"{query.title}: {sorted(named - sent)}"


def test_one_request_is_found_in_metrics_logs_and_traces(seen: Seen) -> None:
    url = seen.gateways[0].url
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", "X-Request-Id": "one-request"}
    with asking.client(url) as http:
        http.post("/ask", json={"question": QUESTION, "max_tokens": 4}, headers=headers).raise_for_status()

    def exemplars() -> set[str]:
        return {
            sample.exemplar.labels["trace_id"]
            for sample in scrape_openmetrics(url).samples
            if sample.name == "pharos_time_to_first_token_seconds_bucket" and sample.exemplar is not None
        }

    assert asking.eventually(lambda: trace_id in exemplars(), seconds=60)

    def line() -> list[Line]:
        return [line for line in requests(seen) if line.metadata.get("request_id") == "one-request"]

    assert asking.eventually(lambda: bool(line()), seconds=60)
    assert [found.fields["trace_id"] for found in line()] == [trace_id]

    def spans() -> dict[str, str]:
        return {span.name: span.service for span in seen.traces.spans if span.trace_id == trace_id}

    wanted = {"POST /ask": "app", "queue": "app", "encode": "app", "generate": "app", "llm_request": "app_llm"}
    # queue is there only when there was a wait
    assert asking.eventually(lambda: (wanted.keys() - {"queue"}) <= spans().keys(), seconds=60), spans()
    assert all(spans()[name] == service for name, service in wanted.items() if name in spans())
    (root,) = [span for span in seen.traces.spans if span.trace_id == trace_id and span.name == "POST /ask"]
    assert root.parent == "00f067aa0ba902b7"


def test_client_and_server_agree_on_the_first_token(seen: Seen) -> None:
    """The medians of what Locust saw of streams and of what the gateway saw of all, a bucket or two apart."""
    end = seen.end
    window = f"[{int(end - seen.start)}s]"
    client = seen.prometheus.query(
        f"histogram_quantile(0.5, sum by (le) (last_over_time(locust_time_to_first_token_seconds_bucket{window})))", end
    )
    server = seen.prometheus.query(
        f"histogram_quantile(0.5, sum by (le) (last_over_time(pharos_time_to_first_token_seconds_bucket{window})))", end
    )
    ratio = float(client[0]["value"][1]) / float(server[0]["value"][1])
    assert 0.3 < ratio < 3
