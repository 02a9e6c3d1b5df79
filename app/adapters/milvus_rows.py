"""Rows as Milvus returns them to hits and passages. Pure."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.fusing import hybrid, places
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
    entity = row["entity"]
    stored = _stored(entity)
    return Hit(
        passage_of(row["id"], entity, float(stored @ vector)),
        _bm25(row),
        coverage(asked, set(entity["terms"].split())),
        stored if with_vector else None,
    )


def hybrid_hits(
    near: list[dict[str, Any]],
    worded: list[dict[str, Any]],
    words: list[str],
    searched: NDArray[np.float32],
    asked: NDArray[np.float32] | None,
    fusion: Fusion,
    limit: int,
    *,
    with_vector: bool,
) -> list[Hit]:
    """The best `limit` of a search by the vector `searched` and one by words, as one. All must bring terms along,
    those by words vectors, and those by the vector too where `with_vector`, or where `asked` is: the question's own
    vector, if that is not the one searched by.

    Only what is handed over is made into hits: a question has ten times as many candidates.
    """
    rows = {row["id"]: row for row in (*worded, *near)}
    nearness = {row["id"]: float(row["distance"]) for row in near}
    others = {row["id"]: float(_stored(row["entity"]) @ searched) for row in worded if row["id"] not in nearness}
    by_words = {row["id"]: _bm25(row) for row in worded}
    fused, place = hybrid(nearness, by_words, others, fusion), places(nearness, by_words)
    hits = []
    for id, score in islice(fused.items(), limit):
        entity = rows[id]["entity"]
        similarity = nearness[id] if id in nearness else others[id]
        if asked is not None:
            similarity = float(_stored(entity) @ asked)
        covered = coverage(words, set(entity["terms"].split()))
        vector = _stored(entity) if with_vector else None
        hits.append(Hit(passage_of(id, entity, similarity), score, covered, vector, place(id)))
    return hits


def _bm25(row: dict[str, Any]) -> float:
    """Milvus Lite gives it as a negative distance."""
    return abs(float(row["distance"]))


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
