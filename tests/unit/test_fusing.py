"""Rankings fused: the legs of a hybrid search by their scores, several searches by reciprocal rank."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fusing import by_reciprocal_rank, hybrid
from contracts.types import Fusion, Hit, Passage


def hit(id: str, score: float = 0.5, coverage: float | None = None) -> Hit:
    return Hit(Passage(id, id, "", "", "", id, 0.25), score, coverage)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


def test_what_several_rankings_have_is_before_what_one_has_first() -> None:
    fused = by_reciprocal_rank([[hit("a"), hit("b")], [hit("c"), hit("b")], [hit("d"), hit("b")]])
    assert ids(fused) == ["b", "a", "c", "d"], "of equal ones the earlier ranking's is first"
    assert [hit.score for hit in fused] == pytest.approx([3 / 62, 1 / 61, 1 / 61, 1 / 61])


def test_only_the_score_of_a_hit_changes() -> None:
    (fused,) = by_reciprocal_rank([[hit("a", 0.9, 0.5)], [hit("a", 12.0, 0.5)]])
    assert fused == Hit(Passage("a", "a", "", "", "", "a", 0.25), fused.score, 0.5)


def test_nothing_gives_nothing() -> None:
    assert by_reciprocal_rank([]) == by_reciprocal_rank([[], []]) == []
    assert hybrid({}, {}, {}, "scores") == hybrid({}, {}, {}, "ranks") == {}


def test_a_hybrid_score_is_the_similarity_and_the_share_of_the_best_bm25() -> None:
    fused = hybrid({"a": 0.8, "b": 0.6}, {"c": 20.0, "b": 10.0}, {"c": 0.1}, "scores")
    assert list(fused) == ["b", "a", "c"]
    assert fused == pytest.approx({"b": 0.7 * 0.6 + 0.3 * 0.5, "a": 0.7 * 0.8, "c": 0.7 * 0.1 + 0.3})


def test_how_far_the_first_is_ahead_counts_by_score_and_not_by_rank() -> None:
    dense, sparse = {"a": 0.51, "b": 0.50}, {"b": 30.0, "a": 3.0}
    assert list(hybrid(dense, sparse, {}, "scores")) == ["b", "a"]
    assert list(hybrid(dense, sparse, {}, "ranks")) == ["a", "b"], "a tie, which the first leg decides"


@pytest.mark.parametrize("fusion", ["scores", "ranks"])
def test_with_one_leg_the_order_is_its(fusion: Fusion) -> None:
    ranking = {"a": 0.3, "b": 0.2, "c": -0.1}
    assert list(hybrid(ranking, {}, {}, fusion)) == ["a", "b", "c"]
    assert list(hybrid({}, {"a": 0.3, "b": 0.2}, {"a": 0.0, "b": 0.0}, fusion)) == ["a", "b"]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.floats(-1, 1), st.floats(0.01, 50)), min_size=1))
def test_whoever_is_better_in_both_legs_is_better(given: dict[str, tuple[float, float]]) -> None:
    dense = {id: near for id, (near, _) in sorted(given.items(), key=lambda item: -item[1][0])}
    sparse = {id: words for id, (_, words) in sorted(given.items(), key=lambda item: -item[1][1])}
    fused = hybrid(dense, sparse, {}, "scores")
    order = list(fused)
    assert sorted(order) == sorted(given)
    assert all(-1 <= score <= 1 + 1e-9 for score in fused.values())
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            assert any(a >= b for a, b in zip(given[first], given[second], strict=True))


rankings = st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True), max_size=5)


@given(rankings)
def test_every_passage_is_there_once_and_the_scores_fall(drawn: list[list[str]]) -> None:
    fused = by_reciprocal_rank([[hit(id) for id in ranking] for ranking in drawn])
    assert sorted(ids(fused)) == sorted({id for ranking in drawn for id in ranking})
    scores = [hit.score for hit in fused]
    assert scores == sorted(scores, reverse=True)
    for one in fused:
        places = [ranking.index(one.passage.id) + 1 for ranking in drawn if one.passage.id in ranking]
        assert one.score == pytest.approx(sum(1 / (60 + place) for place in places))


@given(st.lists(st.sampled_from("abcdefghij"), unique=True), st.integers(1, 4))
def test_a_ranking_fused_with_itself_stays(ranking: list[str], times: int) -> None:
    assert ids(by_reciprocal_rank([[hit(id) for id in ranking]] * times)) == ranking


@given(rankings, st.randoms())
def test_scores_do_not_depend_on_the_order_of_the_rankings(drawn: list[list[str]], random: Random) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)

    def scores(some: list[list[str]]) -> dict[str, float]:
        fused = by_reciprocal_rank([[hit(id) for id in ranking] for ranking in some])
        return {one.passage.id: one.score for one in fused}

    one, other = scores(drawn), scores(shuffled)
    assert one == pytest.approx(other)


@given(rankings)
def test_whoever_is_better_in_all_rankings_is_better(drawn: list[list[str]]) -> None:
    order = ids(by_reciprocal_rank([[hit(id) for id in ranking] for ranking in drawn]))

    def place(ranking: list[str], id: str) -> int:
        return ranking.index(id) if id in ranking else 100

    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            assert any(place(ranking, first) < place(ranking, second) for ranking in drawn)
