"""Pages of /metrics with every series that there may be, for tests of queries: those of contracts/telemetry.py made
with prometheus_client, and other programs' as they once served them (tests/data/scrapes)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from contracts.telemetry import FIRST_TOKEN_BUCKETS, METRICS, Metric, Outcome, Stage
from monitoring.dashboards.foreign import Series

SCRAPES = Path(__file__).parents[1] / "data" / "scrapes"

SAMPLE = re.compile(r"(?P<name>[\w:]+)(?P<labels>(?:\{.*\})?) (?P<value>\S+)")
PART = re.compile("_(bucket|sum|count)$")

LABELS: dict[str, tuple[str, ...]] = {
    "route": ("/ask", "/v1/chat/completions"),
    "outcome": tuple(Outcome),
    "stage": tuple(Stage),
    "topic": ("science", "business", "all"),
    "kind": ("encode", "search", "rerank", "generate"),
    "replica": ("127.0.0.1:8080",),
    "state": ("ready", "ejected"),
    "dependency": ("milvus", "model_service"),
    "gpu": ("0",),
    "result": ("stored", "present", "ok", "failed", "exact", "semantic", "miss"),
    "cache": ("vectors", "answers"),
    "service": ("app",),
    "version": ("0.1.0",),
    "python": ("3.11.7",),
    "generation": ("0", "1", "2"),
    "reason": ("overloaded", "deadline"),
    "name": ("ask", "ask_stream"),
    "method": ("POST",),
    "phase": ("waiting", "mid_stream"),
    "UUID": ("GPU-1",),
    "device": ("nvidia0",),
    "modelName": ("a GPU",),
    "Hostname": ("host",),
}
"""Values for each label that a metric may have."""


def ours(service: str) -> str:
    """Every metric of one of our services, with every combination of labels, as a page."""
    return page([metric for metric in METRICS if service in metric.services])


def page(metrics: list[Metric]) -> str:
    """Metrics with something in each of their series."""
    registry = CollectorRegistry()
    for metric in metrics:
        made = getattr(metric, metric.kind)(registry)
        for values in product(*(LABELS[label] for label in metric.labels)):
            child = made.labels(*values) if values else made
            if metric.kind == "histogram":
                for bucket in metric.buckets:
                    child.observe(bucket)
            elif metric.kind == "counter":
                child.inc(3)
            else:
                child.set(1)
    return generate_latest(registry).decode()


def of_series(series: Series) -> Metric:
    """A series of others as a metric to be made."""
    return Metric(series.name, series.kind, (), "of others", series.labels, FIRST_TOKEN_BUCKETS)


def scrape(name: str) -> str:
    """What a program of others once served."""
    return (SCRAPES / f"{name}.prom").read_text()


def grown(text: str, times: int) -> str:
    """A page some scrapes later: counters and histograms have grown to `times` what they were, gauges are the same."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    lines = []
    for line in text.splitlines():
        sample = SAMPLE.fullmatch(line)
        if sample is not None:
            kind = kinds.get(sample["name"]) or kinds[PART.sub("", sample["name"])]
            if kind in ("counter", "histogram", "summary"):
                line = f"{sample['name']}{sample['labels']} {float(sample['value']) * times}"
        lines.append(line)
    return "\n".join(lines) + "\n"


@contextmanager
def serving(*pages: str) -> Iterator[str]:
    """Serve pages, joined, at an address (given as a URL). With each scrape they have grown."""
    text = "".join(pages)
    scrapes = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal scrapes
            scrapes += 1
            body = grown(text, scrapes).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a Prometheus that is stopped waits for no answer
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
