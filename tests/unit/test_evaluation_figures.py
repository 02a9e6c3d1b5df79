"""Figures of rankings and answers against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from evaluation.answer_figures import (
    Reply,
    citations,
    exact_match,
    f1,
    figures_of,
    holds,
    normalised,
    refuses,
    without_citations,
)
from evaluation.ranking import documents_of, mean_of
from evaluation.ranking import figures_of as ranking_figures
from evaluation.refusing import at_cost, at_threshold, auc, curve
from evaluation.sets import Question
from evaluation.significance import compare


def test_a_document_counts_where_its_best_passage_is() -> None:
    assert documents_of(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


def test_figures_of_a_ranking() -> None:
    judgements = {"q": {"a": 1, "b": 1, "far": 1, "no": 0}}
    ranking = ["x", "a", "no", "b", *[f"d{i}" for i in range(20)], "far"]
    figures = ranking_figures({"q": ranking}, judgements)["q"]
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert figures == pytest.approx(
        {
            "ndcg@10": gained / ideal,
            "recall@10": 2 / 3,
            "recall@100": 1,
            "mrr@10": 1 / 2,
            "top-1": 0,
            "top-3": 1,
        }
    )


def test_grades_weigh_in_ndcg() -> None:
    figures = ranking_figures({"q": ["low", "high"]}, {"q": {"low": 1, "high": 3}})["q"]
    assert figures["ndcg@10"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_ranks_hold_where_ids_would_sort_otherwise() -> None:
    # trec_eval breaks ties of score by id, so the ranks must reach it as scores without ties.
    ranking = [f"{i:03}" for i in range(100)]
    for rank, wanted in ((1, "000"), (3, "002"), (10, "009")):
        figures = ranking_figures({"q": ranking}, {"q": {wanted: 1}})["q"]
        assert figures["mrr@10"] == pytest.approx(1 / rank)


def test_a_question_that_found_nothing_scores_nought() -> None:
    figures = ranking_figures({"found": ["a"], "nothing": []}, {"found": {"a": 1}, "nothing": {"a": 1}})
    assert set(figures["nothing"].values()) == {0.0}
    assert mean_of(figures)["ndcg@10"] == 0.5


def test_means_are_over_the_questions_that_have_the_figure() -> None:
    assert mean_of({"1": {"f1": 1.0}, "2": {"refused_unanswerable": 1.0}, "3": {"f1": 0.5}}) == {
        "f1": 0.75,
        "refused_unanswerable": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Denver Broncos.", "denver broncos"),
        ("an apple, a day", "apple day"),
        ("U.S.", "us"),
        ("another theory", "another theory"),
        ("£412 million", "£412 million"),
        ("", ""),
    ],
)
def test_squads_normalisation(text: str, wanted: str) -> None:
    assert normalised(text) == wanted


def test_exact_match_and_f1() -> None:
    assert exact_match("The Broncos!", "broncos") == 1
    assert exact_match("Denver Broncos", "broncos") == 0
    # 2 of 4 words are right, and all of the 2 wanted: P 1/2, R 1.
    assert f1("won by Denver Broncos", "Denver Broncos") == pytest.approx(2 / 3)
    # A word counts as often as both have it.
    assert f1("new new york", "york new") == pytest.approx(0.8)
    assert f1("Paris", "London") == 0
    assert f1("the", "a") == 1


def test_a_gold_answer_is_found_as_whole_words() -> None:
    assert holds("It cost £412 million, they said.", ["$1", "£412 million"])
    assert not holds("They met in 1943.", ["194"])
    assert not holds("anything", ["the"])
    assert holds("the U.S. won", ["US"])


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("It is so [1].", [1]),
        ("So [2][1], and again [2].", [2, 1]),
        ("Both [1, 3] and [2;4] say so.", [1, 3, 2, 4]),
        ("None (1), [a], [].", []),
        ("In [1999] it was.", [1999]),
    ],
)
def test_citations(answer: str, wanted: list[int]) -> None:
    assert citations(answer) == wanted


def test_citations_are_no_words_of_the_answer() -> None:
    assert normalised(without_citations("Denver Broncos [1, 2].")) == "denver broncos"


def test_refusals() -> None:
    assert refuses("Not in the documents.")
    assert refuses("That is NOT IN THE DOCUMENTS, sorry.")
    assert not refuses("It is in the documents [1].")


QUESTION = Question("q", "Who won?", ("Denver Broncos", "Broncos"), answerable=True)


def test_figures_of_an_answer() -> None:
    reply = Reply("Denver Broncos [1][3][9].", ("The Broncos won.", "Panthers lost.", "It rained."), 0.5)
    assert figures_of(QUESTION, reply) == pytest.approx(
        {
            "seconds": 0.5,
            "prompt_tokens": 0,
            "refused_answerable": 0,
            "exact_match": 1,
            "f1": 1,
            "holds_gold": 1,
            "source_recall": 1,
            "source_precision": 1 / 3,
            "cites": 1,
            "citation_recall": 1,
            "citation_precision": 1 / 3,
            "citation_out_of_range": 1 / 3,
        }
    )


def test_an_answer_without_citations_supports_nothing() -> None:
    figures = figures_of(QUESTION, Reply("Broncos", ("The Broncos won.",), 0.5))
    assert figures["cites"] == figures["citation_recall"] == 0
    assert "citation_precision" not in figures


def test_a_false_refusal_is_a_wrong_answer() -> None:
    figures = figures_of(QUESTION, Reply("Not in the documents.", (), 0.1))
    assert figures == {
        "seconds": 0.1,
        "prompt_tokens": 0,
        "refused_answerable": 1,
        "exact_match": 0,
        "f1": 0,
        "holds_gold": 0,
        "source_recall": 0,
    }


def test_what_cannot_be_answered_is_only_to_be_refused() -> None:
    question = Question("q", "Who lost?", ("made up",), answerable=False)
    spent = {"seconds": 0.1, "prompt_tokens": 7}
    for answer, refused in (("Not in the documents.", 1), ("Panthers [1].", 0)):
        reply = Reply(answer, ("x",), 0.1, ("d",), 7)
        assert figures_of(question, reply) == {**spent, "refused_unanswerable": refused}


def test_a_question_of_unknown_answerability_has_no_refusal_rate() -> None:
    figures = figures_of(Question("q", "Who?", ("Broncos",)), Reply("Broncos", (), 0.1))
    assert not {"refused_answerable", "refused_unanswerable"} & figures.keys()


def test_every_swap_of_a_small_sample_is_counted() -> None:
    # Four gains of 1: of the 16 ways to set their signs, two have a mean as far from 0.
    difference = compare(dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 1.0))
    assert difference.mean == 1
    assert difference.p == pytest.approx(2 / 16)
    assert not difference.significant


def test_a_steady_gain_is_significant_and_luck_is_not() -> None:
    before = {str(i): (i % 7) / 10 for i in range(60)}
    steady = compare(before, {id: value + 0.05 + 0.01 * (int(id) % 3) for id, value in before.items()})
    assert steady.significant
    assert 0.05 < steady.low < steady.mean < steady.high < 0.07
    luck = compare(before, {id: value + (0.1 if int(id) % 2 else -0.1) for id, value in before.items()})
    assert not luck.significant
    assert luck.low < 0 < luck.high
    worse = compare({id: value + 0.1 * (1 + int(id) % 2) for id, value in before.items()}, before)
    assert worse.significant
    assert worse.mean == pytest.approx(-0.15)


def test_only_shared_questions_are_compared() -> None:
    difference = compare({"a": 0.0, "b": 0.0, "old": 1.0}, {"a": 1.0, "b": 0.0, "new": 1.0})
    assert (difference.questions, difference.mean) == (2, 0.5)
    with pytest.raises(ValueError, match="no question in common"):
        compare({"a": 1.0}, {"b": 1.0})


def test_equal_runs_do_not_differ() -> None:
    same = {"a": 0.3, "b": 0.7}
    assert compare(same, dict(same)).p == 1


ANSWERABLE = {"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.2}
UNANSWERABLE = {"x": 0.6, "y": 0.4, "z": 0.1}


def test_what_a_threshold_refuses() -> None:
    point = at_threshold(ANSWERABLE, UNANSWERABLE, 0.5)
    # 0.5 itself is kept, as the gateway keeps what reaches PHAROS_MIN_SCORE.
    assert (point.answerable, point.unanswerable) == pytest.approx((1 / 4, 2 / 3))


def test_the_best_threshold_for_a_cost() -> None:
    free = at_cost(ANSWERABLE, UNANSWERABLE, 0)
    assert (free.threshold, free.answerable, free.unanswerable) == pytest.approx((0.2, 0, 1 / 3))
    quarter = at_cost(ANSWERABLE, UNANSWERABLE, 0.25)
    assert (quarter.threshold, quarter.answerable, quarter.unanswerable) == pytest.approx((0.5, 1 / 4, 2 / 3))
    same = at_threshold(ANSWERABLE, UNANSWERABLE, quarter.threshold)
    assert (same.answerable, same.unanswerable) == pytest.approx((quarter.answerable, quarter.unanswerable))


def test_a_cost_may_be_spent_to_the_last_question() -> None:
    # 2 of 40 are exactly 5 %; 1 - 38/40 is a little more in floating point.
    answerable = {str(i): 0.1 if i < 2 else 0.9 for i in range(40)}
    point = at_cost(answerable, {"x": 0.2}, 0.05)
    assert (point.answerable, point.unanswerable) == pytest.approx((0.05, 1))


def test_of_thresholds_that_refuse_as_many_the_cheapest_is_taken() -> None:
    point = at_cost({"a": 0.3, "b": 0.5, "c": 0.7, "d": 0.9}, {"x": 0.1, "y": 0.2}, 0.5)
    assert (point.threshold, point.answerable, point.unanswerable) == pytest.approx((0.3, 0, 1))


def test_the_curve_goes_from_none_to_all() -> None:
    wrong, right, thresholds = curve(ANSWERABLE, UNANSWERABLE)
    assert (wrong[0], right[0]) == (0, 0)
    assert (wrong[-1], right[-1]) == (1, 1)
    assert (thresholds[1:] > thresholds[:-1]).all()
    # Of the 12 pairs, the answerable one is the more similar in 3 + 3 + 2 + 1.
    assert auc(ANSWERABLE, UNANSWERABLE) == pytest.approx(9 / 12)
