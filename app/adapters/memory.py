"""A `VectorStore` in memory: exact, deterministic, for tests. Never a default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np

from contracts.types import Passage, TopicCount, Vectors


class MemoryStore:
    """`add` takes passages and their normalised vectors; a search is a full scan."""

    def __init__(self) -> None:
        self._passages: list[Passage] = []
        self._vectors: list[Vectors] = []

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Row i of `vectors` belongs to passage i."""
        self._passages.extend(passages)
        self._vectors.extend(vectors)

    async def search(self, vectors: Vectors, topics: Sequence[str], limit: int) -> list[list[Passage]]:
        inside = [i for i, passage in enumerate(self._passages) if not topics or passage.topic in topics]
        if not inside:
            return [[] for _ in vectors]
        scores = vectors @ np.stack([self._vectors[i] for i in inside]).T
        return [
            [
                msgspec.structs.replace(self._passages[inside[j]], score=float(row[j]))
                for j in np.argsort(-row, kind="stable")[:limit]
            ]
            for row in scores
        ]

    async def topic_names(self) -> list[str]:
        return sorted({passage.topic for passage in self._passages})

    async def topics(self) -> list[TopicCount]:
        documents: dict[str, set[str]] = defaultdict(set)
        passages: dict[str, int] = defaultdict(int)
        for passage in self._passages:
            documents[passage.topic].add(passage.document_id)
            passages[passage.topic] += 1
        return [TopicCount(topic, len(documents[topic]), passages[topic]) for topic in sorted(passages)]
