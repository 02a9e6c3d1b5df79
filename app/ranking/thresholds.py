"""What is too far from the question is no hit."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.types import Hit


def relevant(hits: Sequence[Hit], min_score: float) -> list[Hit]:
    """Those whose cosine similarity to the question is `min_score` or more. (It is the one figure that means the same
    for every question: ranks always have a first, and BM25 grows with the words of a question.)"""
    return [hit for hit in hits if hit.passage.score >= min_score]
