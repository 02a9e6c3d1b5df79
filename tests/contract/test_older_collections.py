"""Collections that were made in another way: searched as far as they can be, and never written to."""

from __future__ import annotations

import json
import logging
from uuid import uuid4

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from app.adapters.milvus import MilvusStore
from app.errors import InvalidRequest, StoreFailed
from contracts import collection as schema
from contracts.analysis import Language
from contracts.types import Filters, Queries
from setup_milvus.store import ManifestMismatch, PassageWriter
from tests.support.processes import Service

DIMENSION = 4
VECTORS = np.eye(DIMENSION, dtype=np.float32)[:2]
MANIFEST = {"encoder": "hash", "dimension": DIMENSION}


@pytest.fixture(scope="module")
def before(milvus_lite: Service) -> str:
    """A collection with the fields that Pharos' first schema had, and that schema's manifest."""
    name = f"before_{uuid4().hex[:8]}"
    client = MilvusClient(milvus_lite.url, grpc_options=schema.GRPC_OPTIONS)
    fields = MilvusClient.create_schema(auto_id=False, partition_key_field="topic", num_partitions=4)
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    fields.add_field("topic", DataType.VARCHAR, is_partition_key=True, max_length=256)
    for field in ("document_id", "title", "date", "text"):
        fields.add_field(field, DataType.VARCHAR, max_length=256)
    fields.add_field("chunk", DataType.INT64)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
    client.create_collection(name, schema=fields, index_params=schema.passage_index(bm25=False))
    rows = [
        {"id": f"p{i}", "topic": "t", "document_id": f"d{i}", "title": "", "date": "2025-01-02", "text": f"words {i}",
         "chunk": 0, "vector": VECTORS[i]}
        for i in range(2)
    ]  # fmt: skip
    client.insert(name, rows)
    facts = schema.catalog_of(name)
    client.create_collection(facts, schema=schema.catalog_schema(), index_params=schema.catalog_index())
    client.insert(facts, [schema.catalog_row(schema.MANIFEST_KEY, json.dumps(MANIFEST, sort_keys=True))])
    client.close()
    return name


async def test_it_is_searched_by_vectors_and_the_log_says_so_once(
    milvus_lite: Service, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MilvusStore(milvus_lite.url, "", before, timeout_seconds=20)
    with caplog.at_level(logging.WARNING, logger="app.adapters.milvus"):
        for _ in range(3):
            found = await store.search(Queries(("words 0",), VECTORS[1:2]), ["t"], 2, mode="hybrid")
            assert (found.mode, [hit.passage.id for hit in found.hits[0]]) == ("dense", ["p1", "p0"])
    assert [record.getMessage() for record in caplog.records if "by vectors alone" in record.getMessage()] != []
    assert len(caplog.records) == 1
    with pytest.raises(InvalidRequest, match="--recreate"):
        await store.search(Queries(("a",), VECTORS[:1]), [], 2, mode="dense", filters=Filters(date_from="2025-01-01"))
    await store.close()


async def test_a_catalog_that_cannot_be_understood_is_said_to_be_so(milvus_lite: Service) -> None:
    name = f"newer_{uuid4().hex[:8]}"
    facts = schema.catalog_of(name)
    client = MilvusClient(milvus_lite.url, grpc_options=schema.GRPC_OPTIONS)
    client.create_collection(facts, schema=schema.catalog_schema(), index_params=schema.catalog_index())
    newer = {"schema": 9, "analyzer": {"language": "klingon", "revision": 1}}
    client.insert(
        facts,
        [schema.catalog_row(schema.MANIFEST_KEY, json.dumps(newer)), schema.catalog_row(schema.VERSION_KEY, "[]")],
    )
    client.close()
    store = MilvusStore(milvus_lite.url, "", name, timeout_seconds=20)
    with pytest.raises(StoreFailed, match="older than what ingested it"):
        await store.search(Queries(("words",), VECTORS[:1]), [], 2, mode="dense")
    with pytest.raises(StoreFailed, match="cannot be understood"):
        await store.version()
    await store.close()


def test_ingestion_refuses_it(milvus_lite: Service, before: str) -> None:
    writer = PassageWriter(milvus_lite.url, "", before)
    with pytest.raises(ManifestMismatch, match="--recreate"):
        writer.prepare(DIMENSION, MANIFEST, recreate=False)
    writer.close()


def test_ingestion_refuses_another_language(milvus_lite: Service) -> None:
    name = f"language_{uuid4().hex[:8]}"
    english, russian = (PassageWriter(milvus_lite.url, "", name, it) for it in (Language.ENGLISH, Language.RUSSIAN))
    english.prepare(DIMENSION, MANIFEST, recreate=False)
    english.prepare(DIMENSION, MANIFEST, recreate=False)
    with pytest.raises(ManifestMismatch, match=r"english.*russian"):
        russian.prepare(DIMENSION, MANIFEST, recreate=False)
    russian.prepare(DIMENSION, MANIFEST, recreate=True)
    english.close()
    russian.close()


@pytest.mark.parametrize(
    ("version", "tokenizer"),
    [("v2.3.5", None), ("2.4.23", None), ("v2.5.0", "whitespace"), ("2.6.4", "whitespace"), ("v3.0.0", "whitespace"),
     ("milvus_lite-3.2.2", "standard"), ("nonsense", None)],
)  # fmt: skip
def test_terms_are_kept_where_the_server_can_search_them(version: str, tokenizer: str | None) -> None:
    assert schema.splits_terms(version) == tokenizer
