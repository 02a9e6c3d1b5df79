"""The Milvus schema that `setup_milvus` writes and `app` reads.

Two collections: `NAME` holds the passages, partitioned by topic; `NAME_catalog` holds a handful of facts about them
(which topics exist, which encoder made the vectors), because Milvus has no "select distinct", and Milvus Lite keeps
neither descriptions nor properties of a collection.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pymilvus import CollectionSchema, DataType, MilvusClient, MilvusException
from pymilvus.milvus_client.index import IndexParams

METRIC = "COSINE"
PARTITIONS = 16
"""Physical partitions that the partition key is hashed into; Milvus' own default, written down since it is for ever."""

TEXT_BYTES_MAX = 16_384
TITLE_BYTES_MAX = 2_048
TOPIC_BYTES_MAX = 256
DATE_BYTES_MAX = 64
ID_BYTES_MAX = 64

PASSAGE_FIELDS = ["document_id", "title", "topic", "date", "text"]
"""What a search returns beside id and score."""

TOPIC_KEY_PREFIX = "topic:"
MANIFEST_KEY = "manifest"

GRPC_OPTIONS = {"grpc.keepalive_time_ms": 330_000, "grpc.keepalive_permit_without_calls": False}
"""pymilvus pings every 10 s; Milvus Lite's server, like any Python gRPC server, closes a connection that pings more
often than every five minutes ("too_many_pings"). Calls have deadlines of their own."""

RETRIES = 2
"""pymilvus would try an unreachable server 75 times, for minutes; those who call it know better what to do."""

COLLECTION_NOT_FOUND = 100
COLLECTION_NOT_LOADED = 101
"""Milvus Lite forgets what was loaded when it restarts, and a loaded collection is what a search needs."""
_PASSING_CODES = frozenset({1, 2, 3, 4, 5, 8, 101, *range(500, 600), *range(900, 1000)})
"""Milvus' codes for a server that is starting, unreachable, out of memory, over its limits, or moving its parts
(pkg/util/merr/errors.go of Milvus; pymilvus uses 2 for a failed connection too)."""


def may_pass(error: MilvusException) -> bool:
    """Whether the same call may succeed later, as opposed to a request that Milvus will always refuse."""
    return not isinstance(error.code, int) or error.code in _PASSING_CODES


def catalog_of(collection: str) -> str:
    """Name of the collection of facts about `collection`."""
    return f"{collection}_catalog"


def topic_filter(topics: Sequence[str]) -> str:
    """The Milvus expression that keeps a search inside the partitions of `topics`; empty for all of them.

    JSON's string escapes are what Milvus' expression grammar reads, so no topic can break out of the quotes.
    """
    if not topics:
        return ""
    if len(topics) == 1:
        return f"topic == {json.dumps(topics[0], ensure_ascii=False)}"
    return f"topic in {json.dumps(sorted(topics), ensure_ascii=False)}"


def passage_schema(dimension: int) -> CollectionSchema:
    """One row a passage. `chunk` is its position in the document, so `chunk == 0` counts documents."""
    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False, partition_key_field="topic", num_partitions=PARTITIONS
    )
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ID_BYTES_MAX)
    schema.add_field("topic", DataType.VARCHAR, is_partition_key=True, max_length=TOPIC_BYTES_MAX)
    schema.add_field("document_id", DataType.VARCHAR, max_length=ID_BYTES_MAX)
    schema.add_field("chunk", DataType.INT64)
    schema.add_field("title", DataType.VARCHAR, max_length=TITLE_BYTES_MAX)
    schema.add_field("date", DataType.VARCHAR, max_length=DATE_BYTES_MAX)
    schema.add_field("text", DataType.VARCHAR, max_length=TEXT_BYTES_MAX)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    return schema


def passage_index() -> IndexParams:
    """The vector index: AUTOINDEX lets a cluster choose (HNSW in Standalone); Lite scans."""
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type=METRIC)
    return index


def catalog_schema() -> CollectionSchema:
    """One row a fact. Milvus wants a vector in every collection; this one's is never searched."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=TOPIC_BYTES_MAX + len(TOPIC_KEY_PREFIX))
    schema.add_field("value", DataType.VARCHAR, max_length=4_096)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


def catalog_index() -> IndexParams:
    """Milvus loads a collection only once it has an index."""
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    return index


def catalog_row(key: str, value: str) -> dict[str, object]:
    """A fact as a row."""
    return {"key": key, "value": value, "vector": [0.0, 0.0]}
