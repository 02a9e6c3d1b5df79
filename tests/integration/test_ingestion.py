"""The ingestion job as a process: twice, killed half-way, through restarts, on both kinds of Milvus."""

from __future__ import annotations

import csv
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState

from contracts import collection as schema
from tests.support import asking, processes
from tests.support.processes import Service
from tests.support.proxy import proxy

ROWS = 600
TOPICS = ("business", "sports", "science")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows, of which every 50th is a duplicate of the one before it, of one or two passages each."""
    path = tmp_path_factory.mktemp("data") / "news.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Article", "Date", "Heading", "NewsType"])
        for i in range(ROWS):
            n = i - 1 if i % 50 == 49 else i
            text = " ".join(f"Sentence {j} of article {n} says something." for j in range(20 + n % 30))
            writer.writerow([text, "3/14/2025", f"Heading {n}", TOPICS[n % 3]])
    return path


@pytest.fixture
def collection() -> str:
    return f"ingest_{uuid4().hex[:8]}"


def job(tmp_path: Path, models: Service | str, milvus: Service, collection: str, *arguments: str) -> Service:
    name = f"job-{uuid4().hex[:6]}.log"
    url = models if isinstance(models, str) else models.url
    options = {"collection": collection, "ingest_batch_passages": 32, "ingest_retry_seconds": 240}
    return processes.ingestion(tmp_path / name, url, milvus.url, *arguments, **options)


@contextmanager
def gate(models: Service, calls: int = 4) -> Iterator[tuple[str, threading.Event]]:
    """The address of a way to the model service, on which so many batches are encoded, and the others when the event is
    set: until then a job is in the middle of its work, however slow whoever watches it is."""
    opened = threading.Event()
    numbers = itertools.count()

    def enter() -> None:
        if next(numbers) >= calls:
            opened.wait()

    with proxy(models.url, enter) as url:
        try:
            yield url, opened
        finally:
            opened.set()


def rows(milvus: Service, collection: str) -> dict[str, str]:
    """Topic by id of every stored passage."""
    client = MilvusClient(milvus.url, grpc_options=schema.GRPC_OPTIONS)
    try:
        found = client.query(
            collection, filter="chunk >= 0", output_fields=["id", "topic"], limit=10_000, consistency_level="Strong"
        )
        counted = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
    finally:
        client.close()
    ids = {row["id"]: row["topic"] for row in found}
    assert len(ids) == len(found) == counted[0]["count(*)"], "an id is stored twice"
    return ids


def wait_for_rows(running: Service, milvus: Service, collection: str, at_least: int) -> None:
    assert running.process is not None
    client = MilvusClient(milvus.url, grpc_options=schema.GRPC_OPTIONS)
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline:
            # The job makes the collection, then loads it; only then can it be asked.
            if client.has_collection(collection) and client.get_load_state(collection)["state"] == LoadState.Loaded:
                counted = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
                if counted and counted[0]["count(*)"] >= at_least:
                    return
            assert running.process.poll() is None, running.tail()
            time.sleep(0.02)
    finally:
        client.close()
    raise AssertionError(f"never saw {at_least} rows")


def test_twice_changes_nothing_and_a_kill_half_way_costs_nothing(
    tmp_path: Path, simulated: Service, milvus: Service, collection: str, dataset: Path
) -> None:
    with gate(simulated) as (url, _):
        killed = job(tmp_path, url, milvus, collection, "--dataset", str(dataset))
        killed.start(lambda _: True)
        wait_for_rows(killed, milvus, collection, 64)
        killed.kill()
    half = rows(milvus, collection)

    again = job(tmp_path, simulated, milvus, collection, "--dataset", str(dataset))
    assert again.run() == 0, again.tail()
    whole = rows(milvus, collection)
    assert 0 < len(half) < len(whole)
    assert "12  duplicate" in again.tail()
    assert "INCOMPLETE" not in again.tail()

    undisturbed = job(tmp_path, simulated, milvus, collection + "_2", "--dataset", str(dataset))
    assert undisturbed.run() == 0, undisturbed.tail()
    assert rows(milvus, collection + "_2") == whole

    third = job(tmp_path, simulated, milvus, collection, "--dataset", str(dataset))
    assert third.run() == 0, third.tail()
    assert f"{len(whole):,} passages, {len(whole):,} of them stored before" in third.tail()
    assert rows(milvus, collection) == whole


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """A model service and a Milvus Lite that may be killed."""
    models = processes.simulated_model_service(tmp_path / "models.log")
    milvus = processes.milvus_lite(tmp_path / "milvus", tmp_path / "milvus.log")
    yield models.start(), milvus.start(processes.listens)
    models.stop()
    milvus.stop()


def test_it_survives_restarts_of_both_services(
    tmp_path: Path, own: tuple[Service, Service], collection: str, dataset: Path
) -> None:
    models, milvus = own
    with gate(models) as (url, opened):
        running = job(tmp_path, url, milvus, collection, "--dataset", str(dataset))
        running.start(lambda _: True)
        wait_for_rows(running, milvus, collection, 32)
        models.kill()
        milvus.kill()
        opened.set()
        # Of the two it misses first the one that it was about to use, and comes to app_llm in any case.
        assert asking.eventually(lambda: "is away; trying again" in running.tail(), 60), running.tail()
        milvus.start(processes.listens)
        assert asking.eventually(lambda: "app_llm is away; trying again" in running.tail(), 60), running.tail()
        assert running.process is not None
        assert running.process.poll() is None, running.tail()
        models.start()
        assert running.process.wait(400) == 0, running.tail()
    assert "is away; trying again" in running.tail()
    assert "INCOMPLETE" not in running.tail()
    assert len(rows(milvus, collection)) > ROWS


def test_what_cannot_be_read_is_said(tmp_path: Path, simulated: Service, milvus_lite: Service, collection: str) -> None:
    missing = job(tmp_path, simulated, milvus_lite, collection, "--dataset", "nowhere.csv")
    assert missing.run() == 2
    assert missing.tail() == "error: nowhere.csv: no such file\n"


def test_vectors_of_two_encoders_never_share_a_collection(
    tmp_path: Path, simulated: Service, milvus_lite: Service, collection: str, dataset: Path
) -> None:
    arguments = ("--dataset", str(dataset), "--limit", "5")
    assert job(tmp_path, simulated, milvus_lite, collection, *arguments).run() == 0
    other = processes.simulated_model_service(tmp_path / "other.log", simulated_dimension=64)
    other.start()
    try:
        refused = job(tmp_path, other, milvus_lite, collection, *arguments)
        assert refused.run() == 2
        assert "--recreate" in refused.tail()
        anew = job(tmp_path, other, milvus_lite, collection, *arguments, "--recreate")
        assert anew.run() == 0, anew.tail()
    finally:
        other.stop()


def test_a_dry_run_stores_nothing(
    tmp_path: Path, simulated: Service, milvus_lite: Service, collection: str, dataset: Path
) -> None:
    dry = job(tmp_path, simulated, milvus_lite, collection, "--dataset", str(dataset), "--dry-run")
    assert dry.run() == 0, dry.tail()
    assert "dry run: nothing was stored" in dry.tail()
    client = MilvusClient(milvus_lite.url, grpc_options=schema.GRPC_OPTIONS)
    assert not client.has_collection(collection)
    assert not client.has_collection(schema.catalog_of(collection))
    client.close()
