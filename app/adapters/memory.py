"""A `VectorStore` in memory: exact, deterministic, for tests. Never a default."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.fusing import hybrid, places
from contracts.analysis import Language, coverage, terms
from contracts.collection import BM25_PARAMS
from contracts.filters import day_number
from contracts.ports import CHUNKS_MAX, NO_FILTERS
from contracts.types import (
    ChunkSpan,
    CollectionVersion,
    Filters,
    Found,
    Fusion,
    Hit,
    Passage,
    Queries,
    SearchMode,
    TopicCount,
    Vectors,
)


class MemoryStore:
    """`add` takes passages and their normalised vectors; a search is a full scan. `language` is that of the terms;
    None: there are none, as in a Milvus without BM25."""

    def __init__(self, language: Language | None = Language.ENGLISH, fusion: Fusion = "scores") -> None:
        self._language = language
        self._fusion: Fusion = fusion
        self._passages: list[Passage] = []
        self._vectors: list[Vectors] = []
        self._version: CollectionVersion | None = None

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Row i of `vectors` belongs to passage i."""
        self._passages.extend(passages)
        self._vectors.extend(vectors)
        self._version = CollectionVersion(uuid4().hex)

    async def search(
        self,
        queries: Queries,
        topics: Sequence[str],
        limit: int,
        *,
        mode: SearchMode,
        filters: Filters = NO_FILTERS,
        with_vectors: bool = False,
    ) -> Found:
        language = self._language
        if language is None:
            mode = "dense"
        inside = [i for i, p in enumerate(self._passages) if (not topics or p.topic in topics) and _passes(p, filters)]
        if not inside:
            return Found(mode, [[] for _ in queries.texts])
        rows = np.stack([self._vectors[i] for i in inside])
        asked = queries.asked or queries
        searched, similarities = queries.vectors @ rows.T, asked.vectors @ rows.T
        passages = [self._passages[i] for i in inside]
        vectors = {self._passages[i].id: self._vectors[i] for i in inside} if with_vectors else {}

        def finished(hits: list[Hit]) -> list[Hit]:
            return [msgspec.structs.replace(hit, vector=vectors.get(hit.passage.id)) for hit in hits[:limit]]

        if mode == "dense" or language is None:
            pairs = zip(searched, similarities, strict=True)
            return Found("dense", [finished(_ranked(passages, scores, row)) for scores, row in pairs])
        words = [terms(f"{p.title}\n{p.text}", language) for p in passages]
        found = []
        for text, near, question, row in zip(queries.texts, searched, asked.texts, similarities, strict=True):
            wanted = terms(question, language)
            covered = [coverage(wanted, set(has)) for has in words]
            scores = bm25(terms(text, language), words)
            hits = [hit for hit in _ranked(passages, scores, row, covered) if hit.score > 0]
            if mode == "hybrid":
                dense = _ranked(passages, near, row, covered)
                by_id = {hit.passage.id: hit for hit in dense}
                near_ones, worded = ({hit.passage.id: hit.score for hit in leg} for leg in (dense, hits))
                fused, place = hybrid(near_ones, worded, {}, self._fusion), places(near_ones, worded)
                hits = [msgspec.structs.replace(by_id[id], score=score, legs=place(id)) for id, score in fused.items()]
            found.append(finished(hits))
        return Found(mode, found)

    async def neighbours(self, spans: Sequence[ChunkSpan]) -> list[Passage]:
        wanted = {(span.topic, span.document_id, chunk) for span in spans for chunk in range(span.first, span.last + 1)}
        found = [
            msgspec.structs.replace(passage, score=0.0)
            for passage in self._passages
            if (passage.topic, passage.document_id, passage.chunk) in wanted
        ]
        return sorted(found, key=lambda passage: (passage.document_id, passage.chunk or 0))[:CHUNKS_MAX]

    async def version(self) -> CollectionVersion | None:
        return self._version

    async def topic_names(self) -> list[str]:
        return sorted({passage.topic for passage in self._passages})

    async def topics(self) -> list[TopicCount]:
        documents: dict[str, set[str]] = defaultdict(set)
        passages: dict[str, int] = defaultdict(int)
        for passage in self._passages:
            documents[passage.topic].add(passage.document_id)
            passages[passage.topic] += 1
        return [TopicCount(topic, len(documents[topic]), passages[topic]) for topic in sorted(passages)]


def bm25(asked: Sequence[str], documents: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Robertson and Zaragoza's BM25 of each document, with Lucene's idf, which is never negative."""
    k1, b = BM25_PARAMS["bm25_k1"], BM25_PARAMS["bm25_b"]
    counts = [Counter(document) for document in documents]
    mean = sum(map(len, documents)) / len(documents) or 1.0
    scores = np.zeros(len(documents), dtype=np.float32)
    for term in asked:
        having = sum(term in count for count in counts)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for i, count in enumerate(counts):
            tf = count[term]
            scores[i] += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(documents[i]) / mean))
    return scores


def _ranked(
    passages: Sequence[Passage],
    scores: NDArray[np.float32],
    similarities: NDArray[np.float32],
    covered: Sequence[float] | None = None,
) -> list[Hit]:
    return [
        Hit(
            msgspec.structs.replace(passages[i], score=float(similarities[i])),
            float(scores[i]),
            None if covered is None else covered[i],
        )
        for i in np.argsort(-scores, kind="stable")
    ]


def _passes(passage: Passage, filters: Filters) -> bool:
    day = day_number(passage.date)
    return (
        (filters.date_from is None or day >= day_number(filters.date_from))
        and (filters.date_to is None or 0 < day <= day_number(filters.date_to))
        and (not filters.document_ids or passage.document_id in filters.document_ids)
        and (not filters.authors or passage.author in filters.authors)
        and all(passage.metadata.get(key) in values for key, values in filters.metadata)
    )
