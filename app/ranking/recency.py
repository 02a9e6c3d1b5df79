"""Time weighting: what is older counts for less."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from msgspec.structs import replace

from contracts.types import Hit


def by_recency(hits: Sequence[Hit], half_life_days: float, now: dt.date) -> list[Hit]:
    """`hits` with scores weighted by age, best first again; equal ones keep their order.

    The weight is 2^(-age / half life), the exponential decay of Li & Croft, "Time-based language models" (CIKM 2003),
    in half-lives. It multiplies the score. A negative one (a cosine may be) is lowered by as much as a positive one of
    the same size, or else age would raise it. A date that is missing, not a whole ISO date, or in the future costs
    nothing.
    """
    weighted = [replace(hit, score=_lowered(hit.score, weight(hit.passage.date, half_life_days, now))) for hit in hits]
    return sorted(weighted, key=lambda hit: -hit.score)


def weight(date: str, half_life_days: float, now: dt.date) -> float:
    """What a document of `date` is weighted by on the day `now`: 1 for today's, 0.5 for one half life earlier."""
    try:
        age = (now - dt.date.fromisoformat(date)).days
    except ValueError:
        return 1.0
    return float(0.5 ** (max(age, 0) / half_life_days))


def _lowered(score: float, weight: float) -> float:
    return score - abs(score) * (1 - weight)
