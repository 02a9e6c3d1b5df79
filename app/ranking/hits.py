"""What the steps work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.types import Passage


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A passage and what it is ranked by. Hits come best first; steps that reorder them leave the scores alone.

    `score` is of whichever stage had the last word (cosine, fused ranks, reranker): higher is better, and nothing else
    is assumed of its scale. `rank` is the hit's place, from 0, before the steps: who adds the stages' own figures to an
    answer finds them by it. `vector` is there when the store was asked for it.
    """

    passage: Passage
    score: float
    rank: int = 0
    vector: NDArray[np.float32] | None = None


def hits_of(passages: Iterable[Passage], scores: Sequence[float] | None = None) -> list[Hit]:
    """Passages, best first, as hits; ranked by their cosine similarity where no other `scores` are given."""
    return [
        Hit(passage, passage.score if scores is None else scores[rank], rank) for rank, passage in enumerate(passages)
    ]
