"""Several rankings of one question to one: the legs of a hybrid search, or searches in other words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from contracts.types import Fusion, Hit

WORDS_SHARE = 0.3
"""What BM25 counts in a hybrid search, and the cosine the rest. Best or next to it on each of four sets
(docs/evaluation.md)."""

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods"
(SIGIR 2009)."""


def hybrid(dense: Sequence[Hit], sparse: Sequence[Hit], similarities: Mapping[str, float], fusion: Fusion) -> list[Hit]:
    """Every passage of the two legs once, best first, with its fused score. `similarities` are the cosines of the
    passages in `sparse` with what `dense` was searched by."""
    if fusion == "ranks":
        return by_reciprocal_rank((dense, sparse))
    return _by_scores(dense, sparse, similarities)


def _by_scores(dense: Sequence[Hit], sparse: Sequence[Hit], similarities: Mapping[str, float]) -> list[Hit]:
    """A convex combination of the cosine and of BM25 as a share of the question's best (Bruch, Gai and Ingber, "An
    analysis of fusion functions for hybrid retrieval", TOIS 2023): how far the first is ahead of the second counts, of
    which ranks know nothing. What the sparse leg has not among its best counts as without the words."""
    best = max((hit.score for hit in sparse), default=0.0)
    words = {hit.passage.id: hit.score / best for hit in sparse} if best > 0 else {}
    hits = {hit.passage.id: hit for hit in (*sparse, *dense)}
    nearness = {**similarities, **{hit.passage.id: hit.score for hit in dense}}
    scores = {id: (1 - WORDS_SHARE) * nearness[id] + WORDS_SHARE * words.get(id, 0.0) for id in hits}
    order = sorted(hits, key=lambda id: -scores[id])
    return [msgspec.structs.replace(hits[id], score=scores[id]) for id in order]


def by_reciprocal_rank(rankings: Sequence[Sequence[Hit]], k: int = RRF_K) -> list[Hit]:
    """Every passage of `rankings` once, the one with the greatest sum of 1 / (k + its rank) first; the sum is its hit's
    new score. Of equal ones that of the earlier ranking comes first, then that of the better rank.

    What else a hit says is the first ranking's that has the passage: its similarity and coverage are by the question
    itself (`Queries.asked`), and so the same in all of them.
    """
    first: dict[str, Hit] = {}
    sums: dict[str, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            id = hit.passage.id
            first.setdefault(id, hit)
            sums[id] = sums.get(id, 0.0) + 1 / (k + rank)
    # Stable: a dict keeps the order in which the passages were met.
    order = sorted(first, key=lambda id: -sums[id])
    return [msgspec.structs.replace(first[id], score=sums[id]) for id in order]
