"""Rows as Milvus returns them to hits and passages. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.analysis import coverage
from contracts.types import Hit, Passage


def dense_hit(row: dict[str, Any], asked: NDArray[np.float32] | None, *, with_vector: bool) -> Hit:
    """Of a search by vectors. `asked` is the question's, where that is not the one searched by; then the passage's must
    have come along."""
    similarity = score = float(row["distance"])
    vector = None
    if with_vector or asked is not None:
        vector = _unit(np.asarray(row["entity"]["vector"], dtype=np.float32))
        if asked is not None:
            similarity = float(vector @ asked)
    return Hit(passage_of(row["id"], row["entity"], similarity), score, vector=vector if with_vector else None)


def hit_of(row: dict[str, Any], asked: list[str], vector: NDArray[np.float32], *, with_vector: bool) -> Hit:
    """Of any other search, which must bring terms and vector along; who asks has these words and this `vector`."""
    entity = row["entity"]
    stored = _unit(np.asarray(entity["vector"], dtype=np.float32))
    similarity = float(stored @ vector)
    return Hit(
        passage_of(row["id"], entity, similarity),
        abs(float(row["distance"])),  # Milvus Lite gives BM25 as a negative distance.
        coverage(asked, set(entity["terms"].split())),
        stored if with_vector else None,
    )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm else vector


def passage_of(id: str, entity: dict[str, Any], similarity: float) -> Passage:
    """A row of any collection, of whichever schema."""
    return Passage(
        id=id,
        document_id=entity["document_id"],
        title=entity["title"],
        topic=entity["topic"],
        date=entity["date"],
        text=entity["text"],
        score=similarity,
        author=entity.get("author") or "",
        metadata=entity.get("metadata") or {},
        chunk=entity["chunk"],
        start=entity.get("start"),
    )
