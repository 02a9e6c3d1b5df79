"""Live scrapes of a model service that is left, aborted and made to fail, and of ingestion jobs that are."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from contracts import telemetry
from contracts.telemetry import Metric
from setup_milvus.datasets import Columns, Dataset
from setup_milvus.ingest import DependencyDown, Ingestion, Step
from setup_milvus.instrumented import Metrics
from setup_milvus.settings import Settings
from tests.support import processes, scraping
from tests.support.loki_server import LokiServer
from tests.support.processes import Service
from tests.support.scraping import Samples
from tests.support.stack import SAMPLE
from tests.support.vitals import eventually


def metrics_of(service: str) -> list[Metric]:
    """Those that are always there."""
    return [metric for metric in telemetry.METRICS if service in metric.services and metric not in telemetry.GPU]


def scrape(url: str, **headers: str) -> str:
    return httpx.get(f"{url}/metrics", headers=headers, timeout=30, trust_env=False).raise_for_status().text


@pytest.fixture(scope="module")
def loki() -> Iterator[LokiServer]:
    """Where there is none, the metrics of its records are not there either."""
    with LokiServer() as server:
        yield server


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, loki: LokiServer) -> Iterator[Service]:
    """Four slots, 10 ms a token, and answers of 100 s where nobody wants them shorter; a quarter of the prompts fail
    half-way."""
    service = processes.simulated_model_service(
        tmp_path_factory.mktemp("logs") / "models.log",
        simulated_first_token_seconds=0.01,
        simulated_token_seconds=0.01,
        simulated_answer_tokens=10_000,
        simulated_sequences=4,
        simulated_failure_rate=0.25,
        context_tokens=11_000,
        loki_url=loki.url,
    )
    yield service.start()
    service.stop()


@pytest.fixture
async def http(models: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=models.url, timeout=60, trust_env=False) as client:
        yield client


def prompts(count: int, first: int = 0, **details: object) -> list[dict[str, object]]:
    return [{"request_id": f"p{i}", "prompt": f"prompt number {i}", **details} for i in range(first, first + count)]


def ends(scraped: Samples) -> Counter[str]:
    counts = {r: int(scraping.value(scraped, telemetry.PROMPTS_ENDED, reason=r)) for r in telemetry.PROMPT_REASONS}
    return Counter(counts)


def nothing_is_held(models: Service) -> bool:
    scraped = scraping.samples(scrape(models.url))
    queued = scraping.value(scraped, telemetry.QUEUE_ITEMS, kind="encode")
    return scraping.value(scraped, telemetry.PROMPTS_HELD) == queued == 0


def test_a_model_service_has_every_metric_with_its_labels(models: Service) -> None:
    text = scrape(models.url)
    wanted = metrics_of(telemetry.APP_LLM)
    assert len(wanted) == 22
    assert scraping.faults(text, wanted) == []
    scraped = scraping.samples(text)
    for usual in ("process_resident_memory_bytes", "process_open_fds"):
        assert scraped[(usual, frozenset())] > 0
    assert scraping.value(scraped, telemetry.PROMPTS_AT_ONCE) == 4
    assert scraping.value(scraped, telemetry.QUEUE_ITEMS_MAX, kind="encode") == 1024


def test_a_model_service_speaks_openmetrics(models: Service) -> None:
    families = {family.name for family in parse_openmetrics(scrape(models.url, Accept="application/openmetrics-text"))}
    assert families >= {metric.name.removesuffix("_total") for metric in metrics_of(telemetry.APP_LLM)}


async def test_every_prompt_ends_once_and_nothing_is_held_after_aborts_and_failures(
    models: Service, http: httpx.AsyncClient
) -> None:
    before = scraping.samples(scrape(models.url))
    too_long = {"request_id": "long", "prompt": "word " * 11_000}
    # The first half takes too long to end before it is aborted, whether it runs or waits.
    batch = [*prompts(20, max_tokens=10_000), *prompts(20, 20, max_tokens=40), too_long]
    seen: Counter[str] = Counter()
    tokens = 0
    aborted = False
    async with http.stream("POST", "/generate", json={"prompts": batch}) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            deltas = json.loads(line)["deltas"]
            tokens += sum(delta.get("tokens", 0) for delta in deltas)
            for delta in deltas:
                if delta.get("finish_reason"):
                    refused = delta.get("error", {}).get("code") == "prompt_too_long"
                    seen["refused" if refused else delta["finish_reason"]] += 1
            if tokens and not aborted:
                aborted = True
                held = scraping.value(
                    scraping.samples(await asyncio.to_thread(scrape, models.url)), telemetry.PROMPTS_HELD
                )
                assert held > 4, "more than run wait inside"
                half = [prompt["request_id"] for prompt in batch[:20]]
                assert (await http.post("/abort", json={"request_ids": half})).status_code == 204
    after = scraping.samples(scrape(models.url))
    assert ends(after) - ends(before) == seen
    assert seen["abort"] == 20
    assert seen["refused"] == 1
    assert seen["error"] > 0
    assert seen["length"] > 0
    assert seen.total() == len(batch)
    assert scraping.value(after, telemetry.LLM_TOKENS) - scraping.value(before, telemetry.LLM_TOKENS) == tokens
    await eventually(lambda: nothing_is_held(models))


async def test_prompts_that_run_out_of_time_and_callers_that_leave(models: Service, http: httpx.AsyncClient) -> None:
    before = ends(scraping.samples(scrape(models.url)))
    late = {"prompts": prompts(4, timeout_seconds=0.05, max_tokens=10_000)}
    assert (await http.post("/generate", json=late)).status_code == 200
    async with http.stream("POST", "/generate", json={"prompts": prompts(12, max_tokens=10_000)}) as response:
        async for _ in response.aiter_lines():
            break  # leaves with all of them running or waiting
    await eventually(lambda: nothing_is_held(models))
    # They are counted a little after their places are free.
    wanted = Counter(timeout=4, abort=12)
    await eventually(
        lambda: (ends(scraping.samples(scrape(models.url))) - before).total() >= wanted.total(),
    )
    assert ends(scraping.samples(scrape(models.url))) - before == wanted


async def test_what_is_encoded_is_counted(models: Service, http: httpx.AsyncClient) -> None:
    before = scraping.samples(scrape(models.url))
    calls = [http.post("/encode", json={"texts": ["three short words"] * 20}) for _ in range(10)]
    assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
    after = scraping.samples(scrape(models.url))

    def gained(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before[key]

    assert gained(telemetry.ENCODED_TEXTS.name) == 200
    assert gained(telemetry.ENCODED_TOKENS.name) == 600
    assert 0 < gained(telemetry.ENCODE_SECONDS.name + "_count") <= 20
    # A call of 20 texts comes in two slices of at most 16.
    assert gained(telemetry.BATCH_ITEMS.name + "_sum", kind="encode") == 20


async def test_scrapes_under_load_add_no_series(models: Service, http: httpx.AsyncClient) -> None:
    async def work(name: str) -> None:
        await http.post("/generate", json={"prompts": prompts(2, max_tokens=2)})
        await http.post("/encode", json={"texts": [name]})
        await http.get(f"/models/{name}/tokenizer")
        await http.get(f"/{name}")
        await http.request(name.upper(), "/encode")  # the server refuses methods that nobody has heard of

    async def rounds(count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*(work(f"n{uuid4().hex[:8]}") for _ in range(10)))

    await rounds(1)
    before = scraping.samples(scrape(models.url)).keys()
    scrapes = [asyncio.create_task(asyncio.to_thread(scrape, models.url)) for _ in range(20)]
    await rounds(5)
    texts = await asyncio.gather(*scrapes)
    assert {bool(scraping.samples(text)) for text in texts} == {True}
    assert scraping.samples(scrape(models.url)).keys() == before


# ---- ingestion


def value(registry: CollectorRegistry, metric: Metric, **labels: str) -> float:
    return scraping.value(scraping.samples(generate_latest(registry).decode()), metric, **labels)


class Job:
    """An ingestion in this process, with its metrics."""

    def __init__(self, models: str, milvus: str, collection: str, **settings: object) -> None:
        given = {"ingest_batch_passages": 16, "ingest_retry_seconds": 0, "collection": collection, **settings}
        self.settings = Settings(model_url=models, milvus_uri=milvus, **given)  # type: ignore[arg-type]
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.dataset = Dataset.open(Path(SAMPLE), Columns())
        self.lag: list[float] = []

    async def run(self, **options: bool) -> int:
        """How many passages there were."""

        def on_step(step: Step) -> None:
            self.metrics.on_step(step)
            self.lag.append(value(self.registry, telemetry.INGEST_LAG))

        with self.metrics.running(self.dataset.rows):
            outcome = await Ingestion(self.settings, self.metrics.on_read, on_step).run(self.dataset, **options)
        return outcome.passages

    @property
    def passages(self) -> tuple[float, float]:
        """Stored, and present from an earlier run."""
        return tuple(value(self.registry, telemetry.INGEST_PASSAGES, result=r) for r in ("stored", "present"))  # type: ignore[return-value]


async def test_a_job_counts_what_it_reads_and_stores(models: Service, milvus_lite: Service) -> None:
    collection = f"metrics_{uuid4().hex[:8]}"
    first = Job(models.url, milvus_lite.url, collection)
    passages = await first.run()
    rows = first.dataset.rows
    assert value(first.registry, telemetry.INGEST_ROWS) == rows
    assert value(first.registry, telemetry.INGEST_ROWS_READ) == rows
    assert first.passages == (passages, 0)
    documents = value(first.registry, telemetry.INGEST_DOCUMENTS)
    assert 0 < documents <= rows
    assert max(first.lag) > 0
    assert first.lag[-1] == value(first.registry, telemetry.INGEST_RUNNING) == 0

    again = Job(models.url, milvus_lite.url, collection)
    assert await again.run() == passages
    assert again.passages == (0, passages)
    assert value(again.registry, telemetry.INGEST_DOCUMENTS) == documents

    dry = Job(models.url, milvus_lite.url, collection)
    await dry.run(dry_run=True)
    assert dry.passages == (0, 0)
    assert value(dry.registry, telemetry.INGEST_ROWS_READ) == rows


async def test_a_job_that_fails_half_way_leaves_nothing_under_way(tmp_path: Path, milvus_lite: Service) -> None:
    models = processes.simulated_model_service(tmp_path / "models.log")
    job = Job(models.start().url, milvus_lite.url, f"metrics_{uuid4().hex[:8]}", ingest_in_flight=1)
    count = job.metrics.on_step

    def then_kill(step: Step) -> None:
        count(step)
        models.kill()

    job.metrics.on_step = then_kill  # type: ignore[method-assign]  # the model service dies with the first batch
    try:
        with pytest.raises(DependencyDown):
            await job.run()
    finally:
        models.stop()
    assert 0 < job.passages[0] <= 16
    assert value(job.registry, telemetry.INGEST_LAG) == value(job.registry, telemetry.INGEST_RUNNING) == 0


async def test_a_job_as_a_process_is_scraped_while_it_runs(
    tmp_path: Path, milvus_lite: Service, loki: LokiServer
) -> None:
    models = processes.simulated_model_service(tmp_path / "models.log")
    port = processes.free_port()
    job = processes.ingestion(
        tmp_path / "job.log", models.url, milvus_lite.url, "--dataset", SAMPLE,
        collection=f"metrics_{uuid4().hex[:8]}", ingest_metrics_port=port, ingest_retry_seconds=180,
        loki_url=loki.url,
    )  # fmt: skip
    job.url = f"http://127.0.0.1:{port}"
    job.start(processes.listens)  # and waits for the model service, which is not there yet
    # It begins a little after its port is open.
    await eventually(
        lambda: scraping.value(scraping.samples(scrape(job.url)), telemetry.INGEST_RUNNING) == 1, otherwise=job.tail
    )
    text = scrape(job.url)
    assert scraping.faults(text, metrics_of(telemetry.SETUP)) == []
    scraped = scraping.samples(text)
    assert scraping.value(scraped, telemetry.INGEST_RUNNING) == 1
    assert scraping.value(scraped, telemetry.INGEST_ROWS) > 0
    assert scraping.value(scraped, telemetry.INGEST_LAG) == 0
    models.start()
    try:
        assert job.process is not None
        assert await asyncio.to_thread(job.process.wait, 300) == 0, job.tail()
    finally:
        models.stop()
        job.stop()
    assert not processes.listens(job)
