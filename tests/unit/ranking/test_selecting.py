"""The steps that choose and order: thresholds, time weighting, duplicates, marginal relevance, and all in a row."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ranking.diversity import by_marginal_relevance
from app.ranking.duplicates import shingles, without_duplicates
from app.ranking.options import RankingOptions
from app.ranking.pipeline import assembled, selected, spans_wanted
from app.ranking.recency import by_recency, weight
from app.ranking.thresholds import relevant
from contracts.types import Hit
from tests.unit.ranking.made import found, hit, ids

NOW = dt.date(2020, 1, 1)
REPORT = "Norway won the final in Oslo on Monday after extra time, before a crowd of twenty thousand people"
OPTIONS = st.builds(
    RankingOptions,
    min_score=st.one_of(st.none(), st.floats(-1, 1)),
    half_life_days=st.one_of(st.none(), st.floats(1, 1000)),
    duplicates_above=st.one_of(st.none(), st.floats(0.1, 1)),
    mmr_lambda=st.one_of(st.none(), st.floats(0, 1)),
    join_neighbours=st.booleans(),
)


@settings(deadline=None)
@given(hits=found(), options=OPTIONS, limit=st.integers(1, 12))
def test_nothing_is_invented_and_never_more_than_the_limit(
    hits: list[Hit], options: RankingOptions, limit: int
) -> None:
    chosen = selected(hits, options, limit, NOW)
    assert len(chosen) <= limit
    assert len(set(ids(chosen))) == len(chosen)
    by_id = {hit.passage.id: hit.passage for hit in hits}
    assert all(hit.passage is by_id[hit.passage.id] for hit in chosen)
    assert set(ids(assembled(chosen, options))) <= set(ids(chosen))


@settings(deadline=None)
@given(hits=found(), limit=st.integers(1, 12))
def test_without_options_nothing_changes_but_the_number(hits: list[Hit], limit: int) -> None:
    assert assembled(selected(hits, RankingOptions(), limit, NOW), RankingOptions()) == hits[:limit]
    assert spans_wanted(hits, RankingOptions()) == []


@settings(deadline=None)
@given(hits=found(), options=OPTIONS)
def test_assembling_twice_is_assembling_once(hits: list[Hit], options: RankingOptions) -> None:
    once = assembled(hits, options)
    assert [(h.passage, h.score) for h in assembled(once, options)] == [(h.passage, h.score) for h in once]


def test_what_is_too_far_from_the_question_is_left_out() -> None:
    assert ids(relevant([hit("a", 0.5), hit("b", 0.3), hit("c", 0.29)], 0.3)) == ["a", "b"]


# Time weighting


def test_a_half_life_halves() -> None:
    assert weight("2020-01-01", 10, NOW) == 1
    assert weight("2019-12-22", 10, NOW) == pytest.approx(0.5)
    assert weight("2019-12-12", 10, NOW) == pytest.approx(0.25)


@pytest.mark.parametrize("date", ["", "2016", "May 2016", "2016-05", "2016-02-31", "2031-01-01"])
def test_a_date_that_is_missing_partial_or_to_come_costs_nothing(date: str) -> None:
    assert weight(date, 10, NOW) == 1


def test_the_newer_of_two_alike_comes_first() -> None:
    hits = [hit("old", 0.9, date="2019-10-01"), hit("new", 0.8, date="2019-12-31"), hit("undated", 0.7)]
    assert ids(by_recency(hits, 30, NOW)) == ["new", "undated", "old"]


def test_a_negative_score_gets_no_better_with_age() -> None:
    assert ids(by_recency([hit("new", -0.2, date="2020-01-01"), hit("old", -0.2, date="1990-01-01")], 30, NOW)) == [
        "new",
        "old",
    ]


@settings(deadline=None)
@given(hits=found())
def test_age_only_lowers_and_equal_ages_keep_their_order(hits: list[Hit]) -> None:
    weighted = by_recency(hits, 30, NOW)
    assert all(after.score <= after.passage.score for after in weighted)
    assert [h.score for h in weighted] == sorted((h.score for h in weighted), reverse=True)
    undated = [h for h in hits if not h.passage.date]
    assert by_recency(undated, 30, NOW) == undated or ids(by_recency(undated, 30, NOW)) == ids(undated)


# Near-duplicates


def test_of_a_report_that_comes_again_the_best_hit_is_kept() -> None:
    again = REPORT.replace("Oslo", "Bergen") + "."
    other = "Rain fell on Monday in Oslo and the final was put off by a day, to the anger of the crowd"
    hits = [hit("a", text=REPORT), hit("b", text=REPORT.upper()), hit("c", text=other), hit("d", text=again)]
    assert ids(without_duplicates(hits, 0.9)) == ["a", "c", "d"]
    assert ids(without_duplicates(hits, 0.4)) == ["a", "c"]


def test_the_resemblance_is_the_share_of_common_shingles() -> None:
    one, two = shingles("a b c d e f g h i"), shingles("b c d e f g h i j")
    assert len(one & two) / len(one | two) == pytest.approx(4 / 6)
    hits = [hit("a", text="a b c d e f g h i"), hit("b", text="b c d e f g h i j")]
    assert ids(without_duplicates(hits, 4 / 6)) == ["a"]
    assert ids(without_duplicates(hits, 0.67)) == ["a", "b"]


def test_passages_without_words_are_not_taken_for_each_other() -> None:
    assert len(without_duplicates([hit("a", text=""), hit("b", text="…"), hit("c", text="")], 0.1)) == 3


def test_scripts_without_spaces_have_words_too() -> None:
    assert len(shingles("奥斯陆星期一下雨了")) == 5
    hits = [hit("a", text="奥斯陆星期一下雨了"), hit("b", text="卑尔根的决赛推迟了一天")]
    assert len(without_duplicates(hits, 0.5)) == 2


@settings(deadline=None)
@given(hits=found(), resemblance=st.floats(0.1, 1))
def test_duplicates_are_gone_and_only_they(hits: list[Hit], resemblance: float) -> None:
    def resemble(one: Hit, two: Hit) -> bool:
        a, b = shingles(one.passage.text), shingles(two.passage.text)
        return bool(a & b) and len(a & b) >= resemblance * len(a | b)

    kept = without_duplicates(hits, resemblance)
    assert ids(without_duplicates(kept, resemblance)) == ids(kept)
    assert not any(resemble(one, two) for i, one in enumerate(kept) for two in kept[:i])
    for i, dropped in enumerate(hits):
        assert (dropped in kept) != any(resemble(dropped, better) for better in hits[:i] if better in kept)
    assert without_duplicates(hits, resemblance, 3) == kept[:3]


# Maximal marginal relevance


def test_variety_brings_what_is_unlike_the_best_forward() -> None:
    hits = [
        hit("a", 0.9, vector=[1, 0]),
        hit("like a", 0.85, vector=[1, 0.05]),
        hit("other", 0.7, vector=[0.2, 1]),
        hit("last", 0.1, vector=[1, 0.1]),
    ]
    assert ids(by_marginal_relevance(hits, 0.5)) == ["a", "other", "like a", "last"]
    assert ids(by_marginal_relevance(hits, 1)) == ids(hits)


@settings(deadline=None)
@given(hits=found(), relevance=st.floats(0, 1))
def test_marginal_relevance_reorders_and_keeps_the_best_first(hits: list[Hit], relevance: float) -> None:
    varied = by_marginal_relevance(hits, relevance)
    assert sorted(ids(varied)) == sorted(ids(hits))
    assert ids(by_marginal_relevance(hits, 1)) == ids(hits)
    if hits and relevance > 0:
        assert varied[0].score == max(h.score for h in hits)


@settings(deadline=None)
@given(hits=found(), relevance=st.floats(0, 1))
def test_each_next_one_has_the_greatest_marginal_relevance(hits: list[Hit], relevance: float) -> None:
    """Against the definition, written the slow way."""
    varied = by_marginal_relevance(hits, relevance)
    scores = [h.score for h in hits]
    low, high = min(scores, default=0), max(scores, default=1)

    def margin(candidate: Hit, chosen: list[Hit]) -> float:
        fit = 1.0 if high <= low else (candidate.score - low) / (high - low)
        assert candidate.vector is not None
        return relevance * fit - (1 - relevance) * max(
            (float(candidate.vector @ other.vector) for other in chosen if other.vector is not None), default=0.0
        )

    for i, taken in enumerate(varied):
        assert margin(taken, varied[:i]) >= max(margin(other, varied[:i]) for other in varied[i:]) - 1e-5


def test_without_vectors_nothing_is_reordered() -> None:
    hits = [hit("a", 0.9, vector=[1, 0]), hit("b", 0.8), hit("c", 0.7, vector=[0, 1])]
    assert by_marginal_relevance(hits, 0.1) == hits


# Options


def test_a_request_overrides_what_it_says_and_nothing_else() -> None:
    configured = RankingOptions(mmr_lambda=0.5, half_life_days=30)
    request = RankingOptions.model_validate({"half_life_days": None, "join_neighbours": True})
    assert configured.overridden(request) == RankingOptions(mmr_lambda=0.5, join_neighbours=True)
    assert configured.overridden(None) is configured


def test_only_steps_that_choose_look_at_more_than_is_wanted() -> None:
    assert RankingOptions(join_neighbours=True, parent_tokens=500, min_score=0.3).pool(5, 100) == 5
    assert RankingOptions(mmr_lambda=1).pool(5, 100) == 5
    assert RankingOptions(mmr_lambda=0.5).pool(5, 100) == 30
    assert RankingOptions(half_life_days=5).pool(20, 100) == 80
    assert RankingOptions(duplicates_above=0.9).pool(50, 100) == 100
    assert RankingOptions(duplicates_above=0.9).pool(150, 100) == 150
