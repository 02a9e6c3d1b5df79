"""Rows of Milvus as hits of a hybrid search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.adapters.milvus_rows import hybrid_hits

ASKED = np.array([1.0, 0.0], dtype=np.float32)


def row(id: str, distance: float, similarity: float) -> dict[str, Any]:
    """As a search brings it; its vector has this cosine with `ASKED`."""
    vector = [similarity, (1 - similarity**2) ** 0.5]
    named = dict.fromkeys(("document_id", "title", "topic", "date", "text"), id)
    return {"id": id, "distance": distance, "entity": {**named, "terms": "storm", "vector": vector, "chunk": 0}}


NEAR = [row("a", 0.9, 0.9), row("b", 0.8, 0.8)]
WORDED = [row("b", -20.0, 0.8), row("c", -10.0, 0.5)]


def test_no_more_hits_than_the_limit_are_made_and_each_knows_its_legs() -> None:
    whole = hybrid_hits(NEAR, WORDED, ["storm"], ASKED, None, "scores", 10, with_vector=False)
    expected = {"b": 0.7 * 0.8 + 0.3, "a": 0.7 * 0.9, "c": 0.7 * 0.5 + 0.3 / 2}
    assert {hit.passage.id: hit.score for hit in whole} == pytest.approx(expected)
    first, second = hybrid_hits(NEAR, WORDED, ["storm"], ASKED, None, "scores", 2, with_vector=False)
    assert (first.passage.id, set(first.legs)) == ("b", {"dense", "sparse"})
    assert (second.passage.id, set(second.legs)) == ("a", {"dense"})
    assert first.passage.score == pytest.approx(0.8)
    assert first.coverage == 1
