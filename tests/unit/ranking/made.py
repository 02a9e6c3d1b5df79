"""Hits made for tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from contracts.types import Hit, Passage


def hit(
    name: str,
    score: float = 0.5,
    *,
    document: str = "",
    chunk: int | None = None,
    start: int | None = None,
    text: str = "",
    date: str = "",
    vector: list[float] | None = None,
) -> Hit:
    passage = Passage(name, document or f"doc-{name}", "", "sports", date, text, score, chunk=chunk, start=start)
    row = None if vector is None else np.array(vector, dtype=np.float32) / np.linalg.norm(vector)
    return Hit(passage, score, vector=row)


def hits_of(passages: list[Passage]) -> list[Hit]:
    return [Hit(passage, passage.score) for passage in passages]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


WORDS = st.lists(st.sampled_from(["rain", "fell", "in", "Oslo", "on", "Monday", "cup", "won"]), max_size=30)
SCORES = st.floats(-1, 1, allow_nan=False).map(lambda score: round(score, 3))
DATES = st.one_of(st.just(""), st.just("May 2016"), st.dates().map(str), st.just("2016-13-40"))


@st.composite
def found(draw: st.DrawFn, most: int = 12) -> list[Hit]:
    """Hits of a search: best first, some of the same documents, some with the same words."""
    hits = []
    for i, score in enumerate(sorted(draw(st.lists(SCORES, max_size=most)), reverse=True)):
        angle = draw(st.floats(0, 6.28))
        hits.append(
            hit(
                f"p{i}",
                score,
                document=draw(st.sampled_from(["a", "b", "c"])),
                chunk=draw(st.one_of(st.none(), st.integers(0, 6))),
                text=" ".join(draw(WORDS)),
                date=draw(DATES),
                vector=[float(np.cos(angle)), float(np.sin(angle))],
            )
        )
    return hits
