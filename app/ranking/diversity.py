"""Maximal marginal relevance: what is found should not all say the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contracts.types import Hit


def by_marginal_relevance(hits: Sequence[Hit], relevance: float) -> list[Hit]:
    """`hits` reordered so that each next one is relevant and unlike those before it.

    Carbonell & Goldstein, "The use of MMR, diversity-based reranking" (SIGIR 1998): the next is the one with the
    greatest λ·relevance - (1 - λ)·(greatest similarity to one chosen before), where λ is `relevance`, from 0 to 1; 1
    changes nothing. Similarities are cosines. Relevance is the hit's score moved linearly to 0 to 1 over these hits,
    since a fused or reranker score has a scale of its own. Ties go to the better hit.

    Hits without vectors (the store was not asked for them) stay as they are, all of them.
    """
    vectors = [hit.vector for hit in hits if hit.vector is not None]
    if len(hits) < 2 or len(vectors) < len(hits):
        return list(hits)
    rows = np.stack(vectors).astype(np.float32, copy=False)
    similar = rows @ rows.T
    gain = relevance * _unit_range(np.array([hit.score for hit in hits]))
    nearest = np.full(len(hits), -np.inf)
    left = np.ones(len(hits), dtype=bool)
    order: list[int] = []
    for _ in hits:
        penalty = 0.0 if not order else (1 - relevance) * nearest
        best = int(np.argmax(np.where(left, gain - penalty, -np.inf)))
        order.append(best)
        left[best] = False
        nearest = np.maximum(nearest, similar[best])
    return [hits[i] for i in order]


def _unit_range(scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    low, high = scores.min(), scores.max()
    return np.ones_like(scores) if high <= low else (scores - low) / (high - low)
