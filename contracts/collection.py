"""The Milvus schema that `setup_milvus` writes and `app` reads.

Two collections: `NAME` holds the passages, partitioned by topic; `NAME_catalog` holds a handful of facts about them
(which topics exist, which encoder made the vectors, which version of the documents it is), because Milvus has no
"select distinct", and Milvus Lite keeps neither descriptions nor properties of a collection.
"""

from __future__ import annotations

import re
from uuid import uuid4

import msgspec
from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient, MilvusException
from pymilvus.milvus_client.index import IndexParams

from contracts.analysis import Language
from contracts.types import CollectionVersion

METRIC = "COSINE"
BM25 = "BM25"
BM25_PARAMS = {"bm25_k1": 1.2, "bm25_b": 0.75}
"""Lucene's defaults, and Milvus' own; Milvus Lite's would be 1.5 and 0.75."""
PARTITIONS = 16
"""Physical partitions that the partition key is hashed into; Milvus' own default, written down since it is for ever."""

TEXT_BYTES_MAX = 16_384
TITLE_BYTES_MAX = 2_048
TOPIC_BYTES_MAX = 256
DATE_BYTES_MAX = 64
ID_BYTES_MAX = 64
AUTHOR_BYTES_MAX = 512
TERMS_BYTES_MAX = 65_535
"""Milvus' longest VARCHAR. Pairs of Chinese characters take 7 bytes a character, where the text takes 3."""

FIELDS_OF_1 = ["document_id", "title", "topic", "date", "text", "chunk"]
PASSAGE_FIELDS = [*FIELDS_OF_1, "start", "author", "metadata"]
"""What a search returns beside id and score."""

TOPIC_KEY_PREFIX = "topic:"
MANIFEST_KEY = "manifest"
VERSION_KEY = "version"
"""Of a `CollectionVersion` in JSON, renewed by whoever writes passages, before it does and after."""
SCHEMA = 2
"""In the manifest: one more whenever rows have other fields. 1 (not written down then) had neither start, day,
author, metadata nor terms."""

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


def fields_of(made_with: int) -> list[str]:
    """What a search returns of a collection whose rows are those of schema `made_with`."""
    return PASSAGE_FIELDS if made_with >= SCHEMA else FIELDS_OF_1


def has_bm25(server_version: str) -> bool:
    """Whether this Milvus computes BM25 itself: since 2.5. Milvus Lite calls itself "milvus_lite-…" and does since 3.2
    (pymilvus 3 runs with no older one)."""
    if server_version.startswith("milvus_lite-"):
        return True
    match = re.match(r"v?(\d+)\.(\d+)", server_version)
    return match is not None and (int(match[1]), int(match[2])) >= (2, 5)


def passage_schema(dimension: int, terms_split_by: str | None) -> CollectionSchema:
    """One row a passage. `chunk` is its position in the document, so `chunk == 0` counts documents; `start` is the
    character of the document's text that its own begins at.

    `terms_split_by` is the tokenizer that splits `terms` for BM25 (`splits_terms`), None on a Milvus without BM25.
    """
    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False, partition_key_field="topic", num_partitions=PARTITIONS
    )
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ID_BYTES_MAX)
    schema.add_field("topic", DataType.VARCHAR, is_partition_key=True, max_length=TOPIC_BYTES_MAX)
    schema.add_field("document_id", DataType.VARCHAR, max_length=ID_BYTES_MAX)
    schema.add_field("chunk", DataType.INT64)
    schema.add_field("start", DataType.INT64)
    schema.add_field("title", DataType.VARCHAR, max_length=TITLE_BYTES_MAX)
    schema.add_field("date", DataType.VARCHAR, max_length=DATE_BYTES_MAX)
    schema.add_field("day", DataType.INT64)
    schema.add_field("author", DataType.VARCHAR, max_length=AUTHOR_BYTES_MAX)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("text", DataType.VARCHAR, max_length=TEXT_BYTES_MAX)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    if terms_split_by is not None:
        schema.add_field(
            "terms",
            DataType.VARCHAR,
            max_length=TERMS_BYTES_MAX,
            enable_analyzer=True,
            analyzer_params={"tokenizer": terms_split_by},
        )
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["terms"], ["sparse"]))
    return schema


def splits_terms(server_version: str) -> str | None:
    """The tokenizer that takes `terms` apart where there were spaces. Milvus Lite has none called "whitespace", but its
    "standard" one splits at what is no letter or digit, and terms are made of those; Milvus' own "standard" would take
    pairs of Chinese characters apart."""
    if not has_bm25(server_version):
        return None
    return "standard" if server_version.startswith("milvus_lite-") else "whitespace"


def passage_index(*, bm25: bool) -> IndexParams:
    """The vector index: AUTOINDEX lets a cluster choose (HNSW in Standalone); Lite scans. With `bm25` the one of terms
    beside it."""
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type=METRIC)
    if bm25:
        index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type=BM25, params=BM25_PARAMS)
    return index


class Manifest(msgspec.Struct, frozen=True):
    """What the gateway must know of how a collection was made. A collection without one is as those made before."""

    schema: int = 1
    language: Language | None = None
    """Of its terms; None where it has none."""
    encoder: str = ""
    """The one that made its vectors, "" where that was not kept."""

    @classmethod
    def read(cls, text: str) -> Manifest:
        """Of the catalog's entry. Raises msgspec.DecodeError."""
        written = msgspec.json.decode(text, type=_Written)
        language = written.analyzer.language if written.analyzer is not None else None
        return cls(written.schema, language, written.encoder)


def version_row(*, changing: bool) -> dict[str, object]:
    """A version that there has never been, as a row of the catalog."""
    return catalog_row(VERSION_KEY, msgspec.json.encode(CollectionVersion(uuid4().hex, changing)).decode())


def version_of(text: str) -> CollectionVersion:
    """Of the catalog's entry. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=CollectionVersion)


class Analyzer(msgspec.Struct, frozen=True):
    """How terms were made: contracts/analysis.py."""

    language: Language
    revision: int


class _Written(msgspec.Struct):
    schema: int = 1
    analyzer: Analyzer | None = None
    encoder: str = ""


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
