"""Milvus as ingestion writes it: collections made once, rows upserted, facts kept in the catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

from pymilvus import CollectionSchema, MilvusClient, MilvusException
from pymilvus.exceptions import ErrorCode
from pymilvus.milvus_client.index import IndexParams

from contracts import analysis
from contracts import collection as schema
from contracts.analysis import Language
from contracts.filters import day_number, topic_filter
from contracts.types import CollectionVersion, Vectors
from setup_milvus.chunking import Chunk
from setup_milvus.cleaning import cut_bytes

INDEX_TRIES = 3


class ManifestMismatch(Exception):
    """The collection was made in another way; the message says how and what to do."""


class PassageWriter:
    """Blocking, like the job it serves, and for any number of threads. Every method can be repeated: none adds what is
    there already.

    `language` is that of the terms, which are left out on a Milvus that cannot search by them.

    (pymilvus' asynchronous client cannot create an index on Milvus Lite, which lacks AllocTimestamp.)
    """

    def __init__(self, uri: str, token: str, collection: str, language: Language = Language.ENGLISH) -> None:
        self._client = MilvusClient(uri, token=token, grpc_options=schema.GRPC_OPTIONS)
        self._collection = collection
        self._catalog = schema.catalog_of(collection)
        version = self._client.get_server_version()
        self._writing: AbstractContextManager[object] = Lock() if loses_concurrent_writes(version) else nullcontext()
        self._upsert_misplaces_rows = upsert_misplaces_rows(version)
        self._terms_split_by = schema.splits_terms(version)
        self._language = language if self._terms_split_by is not None else None

    def prepare(self, dimension: int, manifest: dict[str, object], *, recreate: bool) -> None:
        """Make both collections unless they are there.

        `manifest` says how the passages are made (encoder, chunk sizes); the fields of a row and how its terms are made
        are added here. Raises ManifestMismatch where what is there was made differently: vectors of two encoders in one
        collection would make nonsense of every search, and so would terms of two languages.
        """
        manifest = {**manifest, "schema": schema.SCHEMA}
        if self._language is not None:
            manifest["analyzer"] = {"language": self._language, "revision": analysis.REVISION}
        if recreate:
            if self._client.has_collection(self._catalog):
                self._note_change()  # what goes is no longer answered from while the catalog is still there
            for name in (self._collection, self._catalog):
                if self._client.has_collection(name):
                    self._client.drop_collection(name)
        self._make(self._catalog, schema.catalog_schema(), schema.catalog_index())
        self._load(self._catalog)
        wanted = json.dumps(manifest, sort_keys=True)
        rows = self._query(self._catalog, f'key == "{schema.MANIFEST_KEY}"', ["value"])
        if rows and rows[0]["value"] != wanted:
            raise ManifestMismatch(
                f"The collection {self._collection!r} was made with {rows[0]['value']}, not with {wanted}. "
                "Use --recreate to make it anew, or set PHAROS_COLLECTION to another name."
            )
        passages = schema.passage_schema(dimension, self._terms_split_by)
        self._make(self._collection, passages, schema.passage_index(bm25=self._language is not None))
        self._load(self._collection)
        if not rows:
            self._note([schema.catalog_row(schema.MANIFEST_KEY, wanted)])

    def _make(self, collection: str, fields: CollectionSchema, indexes: IndexParams) -> None:
        """Make what is not there: a job may have been killed between a collection and its indexes.

        Milvus Lite 3.2 forgets an index that it makes at the very moment at which another client is the first to ask
        for the collection. Whoever made it hears so when asking whether it is ready, and makes it again.
        """
        if not self._client.has_collection(collection):
            self._client.create_collection(collection, schema=fields)
        for tries_left in reversed(range(INDEX_TRIES)):
            names = self._client.list_indexes(collection)
            there = {self._client.describe_index(collection, name)["field_name"] for name in names}
            try:
                for index in indexes:
                    if index.field_name not in there:
                        self._client.create_index(collection, IndexParams([index]))
                return
            except MilvusException as exc:
                if exc.code != ErrorCode.INDEX_NOT_FOUND or not tries_left:
                    raise

    def load(self) -> None:
        """Make both collections searchable; Milvus Lite forgets it when it restarts."""
        self._load(self._catalog)
        self._load(self._collection)

    def _load(self, collection: str) -> None:
        self._client.load_collection(collection, retry_times=schema.RETRIES)

    def add_topics(self, topics: Iterable[str]) -> None:
        """Note that these topics exist; before their first passage is written, so that none is ever missing."""
        rows = [schema.catalog_row(schema.TOPIC_KEY_PREFIX + topic, "") for topic in sorted(topics)]
        if rows:
            self._note(rows)

    def present(self, ids: Sequence[str]) -> set[str]:
        """Which of `ids` are stored already."""
        rows = self._query(self._collection, f"id in {json.dumps(list(ids))}", ["id"])
        return {row["id"] for row in rows}

    def write(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Upsert one row per chunk; row i of `vectors` is chunk i's."""
        rows = [
            {
                "id": chunk.id,
                "topic": chunk.document.topic,
                "document_id": chunk.document.id,
                "chunk": chunk.index,
                "start": chunk.start,
                "title": chunk.document.title,
                "date": chunk.document.date,
                "day": day_number(chunk.document.date),
                "author": chunk.document.author,
                "metadata": dict(chunk.document.metadata),
                "text": chunk.text,
                "vector": vector,
                **self._terms(chunk),
            }
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        # Noted before, so that no answer counts as made from all of it while this is under way, and after, so that one
        # that was made meanwhile counts as old, whatever another job has said in between.
        self._note_change()
        with self._writing:
            self._replace(rows)
        self._note_change()

    def _note_change(self) -> None:
        self._note([schema.version_row(changing=True)])

    def _note(self, rows: list[dict[str, object]]) -> None:
        with self._writing:
            self._client.upsert(self._catalog, rows, retry_times=schema.RETRIES)

    def _terms(self, chunk: Chunk) -> dict[str, str]:
        if self._language is None:
            return {}
        made = " ".join(analysis.terms(f"{chunk.document.title}\n{chunk.text}", self._language))
        return {"terms": cut_bytes(made, schema.TERMS_BYTES_MAX)}

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        if self._upsert_misplaces_rows:
            # The same in two steps. A crash in between loses nothing: the job is run again and finds them missing.
            self._client.delete(self._collection, ids=[row["id"] for row in rows], retry_times=schema.RETRIES)
            self._client.insert(self._collection, rows, retry_times=schema.RETRIES)
        else:
            self._client.upsert(self._collection, rows, retry_times=schema.RETRIES)

    def finish(self) -> None:
        """Make what was written durable, and end the change: the collection has a version again that answers can be
        kept for. Also where another job was killed that had begun one; if it still runs, its next batch begins it
        anew. Where nothing was written the version stays what it was."""
        self._client.flush(self._collection, retry_times=schema.RETRIES)
        version = self._version()
        if version is None or version.changing:
            self._note([schema.version_row(changing=False)])
        self._client.flush(self._catalog, retry_times=schema.RETRIES)

    def _version(self) -> CollectionVersion | None:
        rows = self._query(self._catalog, f'key == "{schema.VERSION_KEY}"', ["value"])
        return schema.version_of(rows[0]["value"]) if rows else None

    def count(self, topic: str | None = None) -> int:
        """Passages stored, of one topic or of all, including the newest."""
        rows = self._query(self._collection, topic_filter([topic] if topic else []), ["count(*)"])
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        self._client.close()

    def _query(self, collection: str, filter: str, fields: list[str]) -> list[dict[str, Any]]:
        return list(
            self._client.query(
                collection, filter=filter, output_fields=fields, consistency_level="Strong", retry_times=schema.RETRIES
            )
        )


def loses_concurrent_writes(server_version: str) -> bool:
    """Milvus Lite (3.2) has no lock around its write-ahead log: of two first writes at the same time it keeps one,
    and the other is gone if it is killed before it flushes. Taking turns costs nothing: it writes in one thread's time.
    """
    return server_version.startswith("milvus_lite-")


def upsert_misplaces_rows(server_version: str) -> bool:
    """Whether this Milvus computes an upserted row's partition from the wrong field, so that a search by topic misses
    it: before 2.4 (milvus-io/milvus pull request 30772). Milvus Lite calls itself "milvus_lite-…" and is newer."""
    match = re.match(r"v?(\d+)\.(\d+)", server_version)
    return match is not None and (int(match[1]), int(match[2])) < (2, 4)
