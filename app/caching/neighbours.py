"""The nearest of some vectors: a matrix that grows and shrinks, since making it anew for each question would cost
more than the search."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)
_FIRST_ROWS = 4


class Nearest(NamedTuple, Generic[K]):
    """A key and the cosine similarity of its vector."""

    key: K
    similarity: float


class Neighbours(Generic[K]):
    """Normalised vectors of one dimension by key."""

    def __init__(self) -> None:
        self._keys: list[K] = []
        self._rows: dict[K, int] = {}
        self._matrix: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: K, vector: NDArray[np.float32]) -> None:
        """Add a vector, or replace the one of this key."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self._keys)
            self._keys.append(key)
            if row == len(self._matrix):
                larger = np.empty((max(_FIRST_ROWS, 2 * row), len(vector)), np.float32)
                larger[:row] = self._matrix[:row].reshape(row, len(vector))
                self._matrix = larger
        self._matrix[row] = vector

    def drop(self, key: K) -> None:
        """Forget a key; one that is not there is no error."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        last = self._keys.pop()
        if last != key:  # the last one takes its place
            self._keys[row], self._rows[last] = last, row
            self._matrix[row] = self._matrix[len(self._keys)]

    def nearest(self, vector: NDArray[np.float32]) -> Nearest[K] | None:
        """None where there are none."""
        if not self._keys:
            return None
        similarities = self._matrix[: len(self._keys)] @ vector
        best = int(similarities.argmax())
        return Nearest(self._keys[best], float(similarities[best]))
