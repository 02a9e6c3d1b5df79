"""What the search's order counts beside a reranker's scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ranking.prior import with_prior

PROBABILITIES = st.lists(st.floats(0, 1, width=32), max_size=60)


@given(PROBABILITIES)
def test_without_a_prior_the_reranker_is_alone(scores: list[float]) -> None:
    assert with_prior(scores, 0) == pytest.approx(scores)


@given(PROBABILITIES, st.floats(0, 4))
def test_scores_stay_probabilities_and_fall_with_the_rank(scores: list[float], exponent: float) -> None:
    weighed = with_prior(scores, exponent)
    assert all(0 <= after <= before * (1 + 1e-9) for before, after in zip(scores, weighed, strict=True))
    assert not scores or weighed[0] == pytest.approx(scores[0])


@given(st.floats(0.001, 0.999), st.integers(2, 60), st.floats(0.01, 3))
def test_of_equal_scores_the_search_decides(score: float, count: int, exponent: float) -> None:
    weighed = with_prior([score] * count, exponent)
    assert weighed == sorted(weighed, reverse=True)
    assert weighed[0] > weighed[-1]


def test_the_odds_are_divided_by_a_power_of_the_rank() -> None:
    logit = [0.5, 1.0, 2.5]
    scores = [1 / (1 + math.exp(-x)) for x in logit]
    weighed = with_prior(scores, 0.8)
    assert [math.log(p / (1 - p)) for p in weighed] == pytest.approx(
        [x - 0.8 * math.log(rank) for rank, x in enumerate(logit, start=1)]
    )


def test_a_reranker_that_is_sure_overrules_the_search() -> None:
    assert with_prior([0.9, 1.0], 4) == [0.9, 1.0]
    assert with_prior([0.0, 1e-6], 4)[1] > 0
