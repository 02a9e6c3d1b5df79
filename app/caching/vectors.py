"""Questions' vectors, kept by the encoder's name and the exact text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.batching import Served
from app.caching.bounded import Bounded, Bounds
from app.caching.watching import UNWATCHED, CacheWatch
from app.errors import PharosError
from app.retrieval import QuestionEncoder
from contracts.types import Encoding

ENTRY_BYTES = 600
"""What an entry costs beside its vector and its text: objects, links, places in tables. Measured with tracemalloc."""


@dataclass(frozen=True, slots=True)
class _Vector:
    row: NDArray[np.float32]
    tokens: int
    truncated: bool


class CachingEncoder:
    """Around `encoder`. `name` says which model it is now; where nobody can, nothing is looked up.

    The same text that is asked for twice at the same time is encoded twice: in one batch that costs next to nothing.
    """

    def __init__(
        self,
        encoder: QuestionEncoder,
        name: Callable[[], Awaitable[str]],
        bounds: Bounds,
        watch: CacheWatch = UNWATCHED,
    ) -> None:
        self._encoder = encoder
        self._name = name
        self._watch = watch
        self.kept: Bounded[tuple[str, str], _Vector] = Bounded(bounds, watch)

    async def served(self, texts: Sequence[str], *, deadline: float | None = None) -> Served[Encoding]:
        """As `MergingEncoder.served`; what is known takes no time."""
        if not texts:
            return await self._encoder.served(texts, deadline=deadline)
        try:
            name = await self._name()
        except PharosError:
            self._watch.looked_up("skipped")
            return await self._encoder.served(texts, deadline=deadline)
        known = [self.kept.get((name, text)) for text in texts]
        for vector in known:
            self._watch.looked_up("miss" if vector is None else "exact")
        missing = [i for i, vector in enumerate(known) if vector is None]
        queued = served = 0.0
        if missing:
            made = await self._encoder.served([texts[i] for i in missing], deadline=deadline)
            queued, served = made.queued_seconds, made.served_seconds
            for i, vector in zip(missing, _taken_apart(made.value), strict=True):
                known[i] = vector
                size = ENTRY_BYTES + vector.row.nbytes + len(texts[i].encode())
                self.kept.put((name, texts[i]), vector, size)
        return Served(_together([vector for vector in known if vector is not None]), queued, served)


def _taken_apart(encoding: Encoding) -> list[_Vector]:
    # Copies: a row is a view of the whole batch, which it would keep alive.
    return [
        _Vector(row.copy(), tokens, i in encoding.truncated)
        for i, (row, tokens) in enumerate(zip(encoding.vectors, encoding.tokens, strict=True))
    ]


def _together(vectors: Sequence[_Vector]) -> Encoding:
    return Encoding(
        np.stack([vector.row for vector in vectors]),
        tuple(vector.tokens for vector in vectors),
        tuple(i for i, vector in enumerate(vectors) if vector.truncated),
    )
