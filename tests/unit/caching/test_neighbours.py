"""The nearest of some vectors, through whatever was put and dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.caching.neighbours import Neighbours

RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.standard_normal((12, 6), dtype=np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 11)), max_size=50))
def test_it_is_what_a_look_at_each_of_them_finds(steps: list[tuple[bool, int, int]]) -> None:
    neighbours: Neighbours[int] = Neighbours()
    inside: dict[int, int] = {}
    for puts, key, vector in steps:
        if puts:
            neighbours.put(key, VECTORS[vector])
            inside[key] = vector
        else:
            neighbours.drop(key)
            inside.pop(key, None)
        assert len(neighbours) == len(inside)
        nearest = neighbours.nearest(VECTORS[0])
        if not inside:
            assert nearest is None
            continue
        assert nearest is not None
        best = max(float(VECTORS[i] @ VECTORS[0]) for i in inside.values())
        assert nearest.similarity == pytest.approx(best, abs=1e-5)
        assert float(VECTORS[inside[nearest.key]] @ VECTORS[0]) == pytest.approx(best, abs=1e-5)
