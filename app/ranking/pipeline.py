"""The steps in their order. Pure and fast: what the store must be asked for between them is named, not fetched, here.

pool = options.pool(limit, most)                 # search for so many, with vectors if options.needs_vectors
hits = selected(hits, options, limit, now)       # relevant, weighted by age, no repeats, varied; at most `limit`
spans = spans_wanted(hits, options)              # often none; else fetch them: VectorStore.neighbours(spans)
hits = assembled(hits, options, fetched)         # neighbours and parents as one passage
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from app.ranking.diversity import by_marginal_relevance
from app.ranking.duplicates import without_duplicates
from app.ranking.joining import grown, joined, spans_around
from app.ranking.options import RankingOptions
from app.ranking.recency import by_recency
from app.ranking.thresholds import relevant
from contracts.types import ChunkSpan, Hit, Passage


def selected(hits: Sequence[Hit], options: RankingOptions, limit: int, now: dt.date) -> list[Hit]:
    """The `limit` hits to go on with, best first.

    Relevance comes first, since what is irrelevant must not be a reason to drop anything; age before duplicates, so
    that of two reports the newer stays; variety last, over what is left.
    """
    chosen = list(hits)
    if options.min_score is not None:
        chosen = relevant(chosen, options.min_score)
    if options.half_life_days is not None:
        chosen = by_recency(chosen, options.half_life_days, now)
    if options.duplicates_above is not None:
        chosen = without_duplicates(chosen, options.duplicates_above, None if options.needs_vectors else limit)
    if options.mmr_lambda is not None and options.needs_vectors:
        chosen = by_marginal_relevance(chosen, options.mmr_lambda)
    return chosen[:limit]


def spans_wanted(hits: Sequence[Hit], options: RankingOptions) -> list[ChunkSpan]:
    """The chunks to fetch before `assembled`; none unless parents are wanted."""
    return spans_around(hits, options.parent_tokens) if options.parent_tokens else []


def assembled(hits: Sequence[Hit], options: RankingOptions, fetched: Iterable[Passage] = ()) -> list[Hit]:
    """`hits` as the passages that are handed over. `fetched` is what `spans_wanted` asked for."""
    if options.parent_tokens:
        return grown(hits, fetched, options.parent_tokens)
    return joined(hits) if options.join_neighbours else list(hits)
