"""64 searches at once: one Milvus call for all of them, as the gateway's batcher makes it, against one call each."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from app.adapters.milvus import MilvusStore
from app.batching import BatchLimits
from app.merging import MergingEncoder
from app.retrieval import Question, Retriever
from benchmarks.cpu import metered
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.services import LOGS, pid, running
from contracts import collection as schema
from contracts.types import Encoding, Queries
from tests.support import processes
from tests.support.processes import Service, listens, serves_milvus

AT_ONCE = 64
DIMENSION = 384
TOP_K = 5
COLLECTION = "bench_searches"
GOALS = {"Milvus Lite": 5.0, "Milvus Standalone": 2.0}
_FOLDER = Path("volumes/bench/milvus")
_INSERT_ROWS = 1000
_WORDS = "the comet will be nearest to us on 19 January and can be seen without a telescope from dark places " * 8
TIMEOUT_SECONDS = 60.0


def run(options: Options) -> Measured:
    rows, rounds = (5_000, 3) if options.quick else (20_000, 15)
    measured: list[Row] = []
    bars: dict[str, dict[str, float]] = {"one call each": {}, "one call for all": {}, "through the batcher": {}}
    for name in GOALS:
        with _milvus(name) as server:
            vectors = _fill(server.url, rows)
            rates, cpu = asyncio.run(_rates(server, vectors, rounds))
        for way, rate in rates.items():
            bars[way][name] = rate
        note = f"{rows:,} passages of {DIMENSION} dimensions, {rounds} rounds of {AT_ONCE} searches in turns."
        for way in ("one call for all", "through the batcher"):
            goal = Goal("ratio", "at least", GOALS[name])
            each = rates["one call each"]
            what = f"{name}, {way}"
            measured.append(Row(what, "searches/s", rates[way], "higher", "one call each", each, goal, cpu, note=note))
    series = [Series(way, rates) for way, rates in bars.items()]
    return Measured(measured, [Plot("searches", f"{AT_ONCE} searches at once", "searches/s", series)])


@contextmanager
def _milvus(name: str) -> Iterator[Service]:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "milvus.log"
    log.unlink(missing_ok=True)
    if name == "Milvus Lite":
        server, ready = processes.milvus_lite(_FOLDER, log), listens
    else:
        server, ready = processes.milvus_standalone(_FOLDER, log), serves_milvus
    try:
        with running(server, ready):
            yield server
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def _fill(uri: str, rows: int) -> NDArray[np.float32]:
    """A collection of random passages in the gateway's own schema, searchable; and vectors to search for."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((rows, DIMENSION), dtype=np.float32)
    client = MilvusClient(uri, grpc_options=schema.GRPC_OPTIONS)
    client.create_collection(
        COLLECTION, schema=schema.passage_schema(DIMENSION, None), index_params=schema.passage_index(bm25=False)
    )
    facts = schema.catalog_of(COLLECTION)
    client.create_collection(facts, schema=schema.catalog_schema(), index_params=schema.catalog_index())
    client.insert(facts, [schema.catalog_row(schema.MANIFEST_KEY, json.dumps({"schema": schema.SCHEMA}))])
    client.load_collection(facts)
    for start in range(0, rows, _INSERT_ROWS):
        client.insert(COLLECTION, [_row(i, vectors[i]) for i in range(start, min(start + _INSERT_ROWS, rows))])
    client.flush(COLLECTION)
    client.load_collection(COLLECTION)
    client.close()
    queries = random.standard_normal((AT_ONCE, DIMENSION), dtype=np.float32)
    unit: NDArray[np.float32] = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return unit


def _row(i: int, vector: NDArray[np.float32]) -> dict[str, object]:
    return {
        "id": f"{i:032x}-0",
        "topic": ("business", "science", "sports", "world")[i % 4],
        "document_id": f"{i:032x}",
        "chunk": 0,
        "title": f"Article {i}",
        "date": "2026-01-19",
        "day": 20260119,
        "author": "",
        "metadata": {},
        "text": f"{i} {_WORDS}",
        "vector": vector,
    }


class _KnownVectors:
    """An Encoder that costs nothing: text i is vector i."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        return Encoding(self._vectors[[int(text) for text in texts]], (1,) * len(texts))


async def _rates(
    server: Service, vectors: NDArray[np.float32], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Searches a second each way, the median of the rounds, and Milvus' CPU seconds each way."""
    store = MilvusStore(server.url, "", COLLECTION, TIMEOUT_SECONDS)
    encoder = MergingEncoder(_KnownVectors(vectors), slice_texts=AT_ONCE, limits=BatchLimits(AT_ONCE, 1024, 2))
    retriever = Retriever(
        encoder,
        store,
        search_limits=BatchLimits(AT_ONCE, 1024, 4),
        min_score=-1,
        mode="dense",
    )

    async def one_call_each() -> object:
        return await asyncio.gather(
            *(store.search(Queries(("",), vector[None, :]), (), TOP_K, mode="dense") for vector in vectors)
        )

    async def one_call_for_all() -> object:
        return await store.search(Queries(("",) * AT_ONCE, vectors), (), TOP_K, mode="dense")

    async def through_the_batcher() -> object:
        return await asyncio.gather(*(retriever.retrieve(Question(str(i), (), TOP_K)) for i in range(AT_ONCE)))

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "one call each": one_call_each,
        "one call for all": one_call_for_all,
        "through the batcher": through_the_batcher,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu = dict.fromkeys(ways, 0.0)
    async with encoder.batcher, retriever:
        for search in ways.values():
            await search()
        for _ in range(rounds):
            for way, search in ways.items():
                with metered({"milvus": pid(server)}) as used:
                    started = time.perf_counter()
                    await search()
                    seconds[way].append(time.perf_counter() - started)
                cpu[way] += used["milvus"]
    await store.close()
    rates = {way: AT_ONCE / statistics.median(some) for way, some in seconds.items()}
    return rates, {f"milvus, {way}": round(used, 2) for way, used in cpu.items()}
