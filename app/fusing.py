"""Several rankings of one question to one: by reciprocal rank. Pure.

(The legs of a hybrid search are fused by the store; what is fused here are whole searches.)
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from contracts.types import Hit

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods"
(SIGIR 2009)."""


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
