"""Collections that were not made whole, on both kinds of Milvus."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from pymilvus import MilvusClient, MilvusException
from pymilvus.exceptions import ErrorCode
from pymilvus.milvus_client.index import IndexParams

from contracts import collection as schema
from setup_milvus.chunking import Chunk
from setup_milvus.datasets import Document
from setup_milvus.store import INDEX_TRIES, PassageWriter
from tests.support import processes
from tests.support.processes import Service

THREADS = 8


@pytest.fixture
def collection() -> str:
    return f"left_{uuid4().hex[:8]}"


@pytest.fixture
def client(milvus: Service) -> Iterator[MilvusClient]:
    client = MilvusClient(milvus.url, grpc_options=schema.GRPC_OPTIONS)
    yield client
    client.close()


@pytest.fixture
def writer(milvus: Service, collection: str) -> Iterator[PassageWriter]:
    writer = PassageWriter(milvus.url, "", collection)
    yield writer
    writer.close()


def indexed(client: MilvusClient, collection: str) -> set[str]:
    """The fields that have an index."""
    return {client.describe_index(collection, name)["field_name"] for name in client.list_indexes(collection)}


def fields(indexes: IndexParams) -> list[str]:
    return [index.field_name for index in indexes]


@pytest.mark.parametrize("made", [0, 1])
def test_the_next_job_makes_the_indexes_that_are_missing(
    client: MilvusClient, writer: PassageWriter, collection: str, made: int
) -> None:
    version = client.get_server_version()
    wanted = schema.passage_index(bm25=schema.has_bm25(version))
    client.create_collection(collection, schema=schema.passage_schema(4, schema.splits_terms(version)))
    for index in wanted[:made]:
        client.create_index(collection, IndexParams([index]))
    assert indexed(client, collection) == set(fields(wanted)[:made])
    writer.prepare(4, {"made": "for a test"}, recreate=False)
    assert indexed(client, collection) == set(fields(wanted))
    assert writer.count() == 0


@pytest.mark.parametrize("milvus", ["milvus_lite"], indirect=True)
@pytest.mark.parametrize("forgotten", [1, 99])
def test_an_index_that_was_forgotten_is_made_again(
    client: MilvusClient, writer: PassageWriter, collection: str, monkeypatch: pytest.MonkeyPatch, forgotten: int
) -> None:
    """What Milvus Lite does there cannot be had to order: the server's answer is made up, and nothing is made."""
    make = MilvusClient.create_index
    calls: list[str] = []

    def create_index(self: MilvusClient, name: str, indexes: IndexParams) -> None:
        calls.append(name)
        if len(calls) <= forgotten:
            raise MilvusException(ErrorCode.INDEX_NOT_FOUND, f"no index on collection {name!r}")
        make(self, name, indexes)

    monkeypatch.setattr(MilvusClient, "create_index", create_index)
    if forgotten == 1:
        writer.prepare(4, {"made": "for a test"}, recreate=False)
        assert indexed(client, collection) == set(fields(schema.passage_index(bm25=True)))
    else:
        with pytest.raises(MilvusException, match="no index on collection"):
            writer.prepare(4, {"made": "for a test"}, recreate=False)
        assert len(calls) == INDEX_TRIES


def test_milvus_lite_keeps_all_that_was_written_when_it_is_killed(tmp_path: Path, collection: str) -> None:
    """Also the first batches, which come from several threads."""
    milvus = processes.milvus_lite(tmp_path / "milvus", tmp_path / "milvus.log")
    milvus.start(processes.listens)
    try:
        writer = PassageWriter(milvus.url, "", collection)
        writer.prepare(4, {"made": "for a test"}, recreate=False)
        document = Document("d", "title", "", "business", "", "", "", {})
        batches = [
            [Chunk(f"p{batch}-{i}", document, i, 32, f"words {i}", "") for i in range(32)] for batch in range(THREADS)
        ]
        together = threading.Barrier(THREADS)

        def write(chunks: list[Chunk]) -> None:
            together.wait()
            writer.write(chunks, np.ones((len(chunks), 4), dtype=np.float32))

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(write, batches))
        milvus.kill()
        milvus.start(processes.listens)
        writer.load()
        assert writer.count() == sum(map(len, batches))
        writer.close()
    finally:
        milvus.stop()
