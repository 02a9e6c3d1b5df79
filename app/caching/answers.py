"""Answers that were given, by scope and question: found again by the same words or by a near vector."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.caching.bounded import Bounded, Bounds
from app.caching.neighbours import Neighbours
from app.caching.scope import Scope, normalised
from app.caching.watching import UNWATCHED, CacheWatch, Evicted
from contracts.types import Passage, SearchMode

ENTRY_BYTES = 1_000
"""What an entry costs beside its texts and its vector: objects, the scope, places in tables."""
PASSAGE_BYTES = 500
"""The same of each of its passages."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and what it was made from."""

    text: str
    passages: tuple[Passage, ...]
    mode: SearchMode
    finish_reason: str


_NUMBER = re.compile(r"\d+")


class _Key(NamedTuple):
    scope: Scope
    question: str


class Answers:
    """Answers of one scope are never given in another."""

    def __init__(self, bounds: Bounds, watch: CacheWatch = UNWATCHED) -> None:
        self.kept: Bounded[_Key, Answer] = Bounded(bounds, watch, self._gone)
        self._near: dict[Scope, Neighbours[_Key]] = {}

    def same(self, scope: Scope, question: str) -> Answer | None:
        """The answer to these words."""
        return self.kept.get(_Key(scope, normalised(question)))

    def near(self, scope: Scope, question: str, vector: NDArray[np.float32], similarity: float) -> Answer | None:
        """The answer to the question whose vector is nearest, if its cosine is at least `similarity` and it may be
        about the same (`comparable`)."""
        self.kept.expire()
        neighbours = self._near.get(scope)
        nearest = None if neighbours is None else neighbours.nearest(vector)
        if nearest is None or nearest.similarity < similarity or not comparable(question, nearest.key.question):
            return None
        return self.kept.get(nearest.key)

    def keep(self, scope: Scope, question: str, answer: Answer, vector: NDArray[np.float32] | None) -> None:
        """Keep an answer, in place of an earlier one to the same words; without `vector` it is found by them alone."""
        key = _Key(scope, normalised(question))
        size = ENTRY_BYTES + len(msgspec.msgpack.encode((key.question, answer.text, answer.passages)))
        size += PASSAGE_BYTES * len(answer.passages) + (0 if vector is None else 2 * vector.nbytes)
        if self.kept.put(key, answer, size) and vector is not None:
            self._near.setdefault(scope, Neighbours()).put(key, vector)

    def clear(self, why: Evicted) -> None:
        """Forget all."""
        self.kept.clear(why)

    def _gone(self, key: _Key) -> None:
        neighbours = self._near.get(key.scope)
        if neighbours is not None:
            neighbours.drop(key)
            if not len(neighbours):
                del self._near[key.scope]


def comparable(question: str, other: str) -> bool:
    """Whether two questions that sound alike may ask for the same: they name the same numbers. Encoders tell "in 2015"
    and "in 2016" hardly apart."""
    return _NUMBER.findall(question) == _NUMBER.findall(other)
