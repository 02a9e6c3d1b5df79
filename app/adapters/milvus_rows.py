"""Rows as Milvus returns them to hits and passages. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.fusing import hybrid
from contracts.analysis import coverage
from contracts.types import Fusion, Hit, Passage


def dense_hit(row: dict[str, Any], asked: NDArray[np.float32] | None, *, with_vector: bool) -> Hit:
    """Of a search by vectors. `asked` is the question's, where that is not the one searched by; then the passage's must
    have come along."""
    similarity = score = float(row["distance"])
    vector = None
    if with_vector or asked is not None:
        vector = _stored(row["entity"])
        if asked is not None:
            similarity = float(vector @ asked)
    return Hit(passage_of(row["id"], row["entity"], similarity), score, vector=vector if with_vector else None)


def sparse_hit(row: dict[str, Any], asked: list[str], vector: NDArray[np.float32], *, with_vector: bool) -> Hit:
    """Of a search by words, which must bring terms and vector along; who asks has these words and this `vector`."""
    # Milvus Lite gives BM25 as a negative distance.
    return _hit(row, abs(float(row["distance"])), asked, vector, with_vector=with_vector)


def _hit(row: dict[str, Any], score: float, asked: list[str], vector: NDArray[np.float32], *, with_vector: bool) -> Hit:
    entity = row["entity"]
    stored = _stored(entity)
    return Hit(
        passage_of(row["id"], entity, float(stored @ vector)),
        score,
        coverage(asked, set(entity["terms"].split())),
        stored if with_vector else None,
    )


def hybrid_hits(
    near: list[dict[str, Any]],
    worded: list[dict[str, Any]],
    asked: list[str],
    vector: NDArray[np.float32],
    searched: NDArray[np.float32],
    fusion: Fusion,
    *,
    with_vector: bool,
) -> list[Hit]:
    """Of a search by the vector `searched` and of one by words, as one; the rest is as for `sparse_hit`."""
    dense = [_hit(row, float(row["distance"]), asked, vector, with_vector=with_vector) for row in near]
    sparse = [sparse_hit(row, asked, vector, with_vector=with_vector) for row in worded]
    similarities = {row["id"]: float(_stored(row["entity"]) @ searched) for row in worded}
    return hybrid(dense, sparse, similarities, fusion)


def _stored(entity: dict[str, Any]) -> NDArray[np.float32]:
    return _unit(np.asarray(entity["vector"], dtype=np.float32))


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
