"""Several rankings of one question to one: the legs of a hybrid search, or searches in other words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from contracts.types import Fusion, Hit, Place, SearchMode

WORDS_SHARE = 0.3
"""What BM25 counts in a hybrid search, and the cosine the rest. Best or next to it on each of four sets
(docs/evaluation.md)."""

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods"
(SIGIR 2009)."""


def hybrid(
    dense: Mapping[str, float], sparse: Mapping[str, float], similarities: Mapping[str, float], fusion: Fusion
) -> dict[str, float]:
    """Every passage of the two legs (id → cosine, id → BM25, each best first) once with its fused score, best first.
    `similarities` are the cosines of those that are in `sparse` alone."""
    return reciprocal_ranks((dense, sparse)) if fusion == "ranks" else _by_scores(dense, sparse, similarities)


def _by_scores(
    dense: Mapping[str, float], sparse: Mapping[str, float], similarities: Mapping[str, float]
) -> dict[str, float]:
    """A convex combination of the cosine and of BM25 as a share of the question's best (Bruch, Gai and Ingber, "An
    analysis of fusion functions for hybrid retrieval", TOIS 2023): how far the first is ahead of the second counts, of
    which ranks know nothing. What the sparse leg has not among its best counts as without the words."""
    best = max(sparse.values(), default=0.0)
    share = WORDS_SHARE / best if best > 0 else 0.0
    nearness = {**similarities, **dense}
    return _best_first(
        {id: (1 - WORDS_SHARE) * nearness[id] + share * sparse.get(id, 0.0) for id in {**sparse, **dense}}
    )


def reciprocal_ranks(rankings: Iterable[Iterable[str]], k: int = RRF_K) -> dict[str, float]:
    """Every id of `rankings` once with the sum of 1 / (k + its rank), the greatest first. Of equal ones that of the
    earlier ranking comes first, then that of the better rank."""
    sums: dict[str, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, start=1):
            sums[id] = sums.get(id, 0.0) + 1 / (k + rank)
    return _best_first(sums)


def places(dense: Mapping[str, float], sparse: Mapping[str, float]) -> Callable[[str], dict[SearchMode, Place]]:
    """Where each leg of a hybrid search (as `hybrid` takes them) has the passage of an id. Made for those that are
    asked for: a question has ten times as many candidates as hits."""
    legs: dict[SearchMode, Mapping[str, float]] = {"dense": dense, "sparse": sparse}
    ranks = {leg: {id: rank for rank, id in enumerate(scores, start=1)} for leg, scores in legs.items()}
    return lambda id: {leg: Place(ranks[leg][id], scores[id]) for leg, scores in legs.items() if id in scores}


def _best_first(scores: Mapping[str, float]) -> dict[str, float]:
    """Of equal ones that which was met first."""
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def by_reciprocal_rank(rankings: Sequence[Sequence[Hit]], k: int = RRF_K) -> list[Hit]:
    """The hits of `rankings` in the order of `reciprocal_ranks`, with these scores.

    What else a hit says is the first ranking's that has the passage: its similarity and coverage are by the question
    itself (`Queries.asked`), and so the same in all of them.
    """
    first: dict[str, Hit] = {}
    for hit in chain.from_iterable(rankings):
        first.setdefault(hit.passage.id, hit)
    fused = reciprocal_ranks(([hit.passage.id for hit in ranking] for ranking in rankings), k)
    return [msgspec.structs.replace(first[id], score=score) for id, score in fused.items()]
