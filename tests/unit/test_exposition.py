"""GET /metrics: formats, exemplars, and a loop that keeps turning; and labels that nobody outside can make up."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from observability import exposition, http_metrics
from tests.support.asgi import Answer, ask

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 2 sends."""


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def app(registry: CollectorRegistry) -> FastAPI:
    app = FastAPI()
    app.include_router(exposition.router(registry))
    return app


async def scrape(app: FastAPI, accept: str = "*/*") -> Answer:
    answer = await ask(app, "GET", "/metrics", accept=accept)
    assert answer.status == 200
    return answer


def with_an_exemplar(registry: CollectorRegistry) -> None:
    seconds = Histogram("seconds", "Some.", buckets=(0.1, 1), registry=registry)
    seconds.observe(0.5, {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"})
    Counter("things", "Some.", registry=registry).inc()


async def test_a_browser_gets_the_text_format(app: FastAPI, registry: CollectorRegistry) -> None:
    with_an_exemplar(registry)
    answer = await scrape(app)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {family.name for family in parse_text(answer.body.decode())} >= {"seconds", "things"}
    assert b"trace_id" not in answer.body


@pytest.mark.parametrize("accept", [OPENMETRICS, PROMETHEUS_2, PROMETHEUS_3])
async def test_openmetrics_has_exemplars(app: FastAPI, registry: CollectorRegistry, accept: str) -> None:
    with_an_exemplar(registry)
    answer = await scrape(app, accept)
    assert answer.headers["content-type"] == OPENMETRICS
    assert answer.body.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(answer.body.decode())}
    (exemplar,) = [sample.exemplar for sample in families["seconds"].samples if sample.exemplar]
    assert exemplar.labels == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert exemplar.value == 0.5


@pytest.mark.parametrize("accept", ["*/*", OPENMETRICS, PROMETHEUS_2, PROMETHEUS_3, "application/openmetrics-text"])
async def test_vllms_names_pass_unchanged(app: FastAPI, registry: CollectorRegistry, accept: str) -> None:
    Counter("vllm:prompt_tokens", "Colons and all.", ["engine"], registry=registry).labels("0").inc()
    lines = (await scrape(app, accept)).body.decode().splitlines()
    assert 'vllm:prompt_tokens_total{engine="0"} 1.0' in lines
    assert {line.split()[2].split("_")[0] for line in lines if line.startswith("# TYPE")} == {"vllm:prompt"}


@pytest.mark.parametrize("accept", ["", "nonsense", "application/openmetrics-text; version=new", ";;=,"])
async def test_what_cannot_be_understood_gets_the_text_format(app: FastAPI, accept: str) -> None:
    assert (await scrape(app, accept)).headers["content-type"].startswith("text/plain")


def test_it_is_in_the_api_description(app: FastAPI) -> None:
    operation = app.openapi()["paths"]["/metrics"]["get"]
    assert operation["tags"] == ["health"]
    assert set(operation["responses"]["200"]["content"]) == {"text/plain", "application/openmetrics-text"}


class Slow(Collector):
    """Waits in `collect` until it may go on, in whatever thread that is; its gauge says how often it was asked."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.times = 0
        self.at_once = 0
        self.most_at_once = 0

    def collect(self) -> Iterator[Gauge]:
        self.times += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        gauge = Gauge("times", "Asked.", registry=None)
        gauge.set(self.times)
        self.began.set()
        assert self.go_on.wait(30)
        self.at_once -= 1
        yield from gauge.collect()  # type: ignore[misc]


async def test_the_loop_keeps_turning_during_a_scrape(app: FastAPI, registry: CollectorRegistry) -> None:
    slow = Slow()
    registry.register(slow)
    scraping = asyncio.create_task(scrape(app))
    assert await asyncio.to_thread(slow.began.wait, 30)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not scraping.done()
    slow.go_on.set()
    assert b"times 1.0" in (await scraping).body


async def test_scrapes_that_come_during_one_share_the_next(app: FastAPI, registry: CollectorRegistry) -> None:
    slow = Slow()
    registry.register(slow)
    first = asyncio.create_task(scrape(app))
    assert await asyncio.to_thread(slow.began.wait, 30)
    later = [asyncio.create_task(scrape(app)) for _ in range(20)]
    other = [asyncio.create_task(scrape(app, OPENMETRICS)) for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    slow.go_on.set()
    assert b"times 1.0" in (await first).body
    # Begun after they came, so they miss nothing that was before them.
    assert {answer.body.count(b"times 2.0") for answer in await asyncio.gather(*later)} == {1}
    assert {answer.body.count(b"times 3.0") for answer in await asyncio.gather(*other)} == {1}
    assert (slow.times, slow.most_at_once) == (3, 1)
    assert b"times 4.0" in (await scrape(app)).body


async def test_a_scraper_that_leaves_takes_nothing_from_the_others(app: FastAPI, registry: CollectorRegistry) -> None:
    slow = Slow()
    registry.register(slow)
    first = asyncio.create_task(scrape(app))
    assert await asyncio.to_thread(slow.began.wait, 30)
    leaving, staying = asyncio.create_task(scrape(app)), asyncio.create_task(scrape(app))
    await asyncio.sleep(0)
    leaving.cancel()
    slow.go_on.set()
    assert b"times 2.0" in (await staying).body
    assert b"times 1.0" in (await first).body


class Broken(Collector):
    broken = True

    def collect(self) -> Iterator[Gauge]:
        if self.broken:
            raise RuntimeError("no figures today")
        return iter(())


async def test_after_a_collector_that_fails_the_next_scrape_is_tried(app: FastAPI, registry: CollectorRegistry) -> None:
    broken = Broken()
    registry.register(broken)
    with pytest.raises(RuntimeError, match="no figures today"):
        await scrape(app)
    broken.broken = False
    await scrape(app)


def series(registry: CollectorRegistry) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(s.name, frozenset(s.labels.items())) for family in registry.collect() for s in family.samples}


async def test_paths_and_methods_that_clients_make_up_are_no_labels(app: FastAPI, registry: CollectorRegistry) -> None:
    http_metrics.instrument(app, registry)

    @app.get("/models/{name}")
    async def model(name: str) -> str:
        return name

    randomly = random.Random(1)

    def word() -> str:
        return "".join(randomly.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=8))

    for method in sorted(http_metrics.METHODS):
        for path in ("/models/one", "/nowhere"):
            await ask(app, method, path)
    await ask(app, "WORD", "/models/one")
    await ask(app, "WORD", "/nowhere")
    before = series(registry)
    for _ in range(1000):
        path = randomly.choice((f"/{word()}", f"/models/{word()}", f"/metrics/{word()}", f"/models/{word()}/{word()}"))
        await ask(app, randomly.choice((word(), *http_metrics.METHODS)), path)
    assert series(registry) == before
    labels = [dict(labels) for name, labels in before if name == "http_requests_total"]
    assert {each["handler"] for each in labels} == {"none", "/models/{name}"}
    assert {each["method"] for each in labels} == {*http_metrics.METHODS, "other"}


async def test_the_health_pages_are_not_measured(app: FastAPI, registry: CollectorRegistry) -> None:
    http_metrics.instrument(app, registry)
    await scrape(app)
    assert b'handler="/metrics"' not in (await scrape(app)).body


def test_a_registry_measures_one_application(app: FastAPI, registry: CollectorRegistry) -> None:
    http_metrics.instrument(app, registry)
    with pytest.raises(ValueError, match="another application"):
        http_metrics.instrument(FastAPI(), registry)
