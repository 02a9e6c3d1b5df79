"""Dates and topics in questions."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.query_rules import narrowing

NOW = dt.date(2026, 11, 21)  # a Saturday
TOPICS = ["business", "sports", "cricket", "U.S. news", "c++"]


def days(question: str) -> tuple[str | None, str | None]:
    found = narrowing(question, [], NOW)
    return (
        found.date_from.isoformat() if found.date_from else None,
        found.date_to.isoformat() if found.date_to else None,
    )


@pytest.mark.parametrize(
    ("question", "first", "last"),
    [
        ("Who won in March 2016?", "2016-03-01", "2016-03-31"),
        ("Who won in Feb. 2016?", "2016-02-01", "2016-02-29"),
        ("Who won in Sept 2016?", "2016-09-01", "2016-09-30"),
        ("Who won in the year 2016?", "2016-01-01", "2016-12-31"),
        ("What fell on 3 May 2016?", "2016-05-03", "2016-05-03"),
        ("What fell on the 3rd of May, 2016?", "2016-05-03", "2016-05-03"),
        ("What fell on May 3rd, 2016?", "2016-05-03", "2016-05-03"),
        ("What fell on 2016-05-03?", "2016-05-03", "2016-05-03"),
        ("Which games since 2015?", "2015-01-01", None),
        ("Which games from May 2015 onwards?", "2015-05-01", None),
        ("Which games after May 2015?", "2015-06-01", None),
        ("Which games after 31 December 2015?", "2016-01-01", None),
        ("Which games before 3 May 2016?", None, "2016-05-02"),
        ("Which games before 2016?", None, "2015-12-31"),
        ("Which games until June 2016?", None, "2016-06-30"),
        ("Which games between May 2015 and 3 June 2016?", "2015-05-01", "2016-06-03"),
        ("Which games from 2015 to 2016?", "2015-01-01", "2016-12-31"),
        ("Which games after 2014 and before 2016?", "2015-01-01", "2015-12-31"),
        ("Who won last year?", "2025-01-01", "2025-12-31"),
        ("Who won this year?", "2026-01-01", "2026-12-31"),
        ("Who won last month?", "2026-10-01", "2026-10-31"),
        ("Who won last week?", "2026-11-09", "2026-11-15"),
        ("Who won this week?", "2026-11-16", "2026-11-22"),
        ("Who won yesterday?", "2026-11-20", "2026-11-20"),
        ("Who won in the last 10 days?", "2026-11-11", "2026-11-21"),
        ("Who won in the past three months?", "2026-08-21", "2026-11-21"),
        ("WHO WON SINCE MARCH 2016", "2016-03-01", None),
    ],
)
def test_a_phrase_about_time_is_a_range_of_days(question: str, first: str | None, last: str | None) -> None:
    assert days(question) == (first, last)


@pytest.mark.parametrize(
    "question",
    [
        "Who won?",
        "Who won the 2016 final?",
        "How did 2016 change football?",
        "What happened on 31 February 2016?",
        "Is room 2016-05 in 20160503 free?",
        "Which games from 2016 to 2015?",
        "Which games after 2016 and before 2015?",
        "May I ask in person?",
        "Who came in 1st of 2016-1 people?",
        "What was in the last 9999 years?",
    ],
)
def test_what_is_not_understood_narrows_nothing(question: str) -> None:
    assert days(question) == (None, None)


def test_last_of_a_month_that_is_shorter() -> None:
    found = narrowing("in the last one month", [], dt.date(2026, 3, 31))
    assert found.date_from == dt.date(2026, 2, 28)


@pytest.mark.parametrize(
    ("question", "topics"),
    [
        ("Who won in March 2016, about cricket?", ("cricket",)),
        ("What is new on Business?", ("business",)),
        ("What is new in business and sports?", ("business", "sports")),
        ("Any sports news?", ("sports",)),
        ("What is under the topic U.S. news?", ("U.S. news",)),
        ("Any articles about c++?", ("c++",)),
        ("Is cricket a sport?", ()),
        ("What about crickets?", ()),
        ("What about football?", ()),
    ],
)
def test_topics_are_known_by_their_names(question: str, topics: tuple[str, ...]) -> None:
    assert narrowing(question, TOPICS, NOW).topics == topics


@pytest.mark.parametrize("question", ["about \u017fports", "in \u0130stanbul", "in \u0131stanbul and cricket"])
def test_letters_that_have_no_like_in_lower_case_are_no_fault(question: str) -> None:
    assert set(narrowing(question, [*TOPICS, "istanbul"], NOW).topics) <= {"cricket"}


WORDS = st.one_of(
    st.sampled_from(["in", "on", "since", "before", "after", "between", "and", "to", "last", "this", "year", "month"]),
    st.sampled_from(["2016", "2015", "May", "3", ",", "?", "cricket"]),
)


@settings(deadline=None)
@given(words=st.lists(WORDS, max_size=12))
def test_nothing_is_invented(words: list[str]) -> None:
    question = " ".join(words)
    found = narrowing(question, TOPICS, NOW)
    if found.date_from and found.date_to:
        assert found.date_from <= found.date_to
    assert set(found.topics) <= {"cricket"}


@settings(deadline=None)
@given(question=st.text(max_size=60), now=st.dates())
def test_any_text_is_taken(question: str, now: dt.date) -> None:
    found = narrowing(question, TOPICS, now)
    assert found.date_from is None or found.date_to is None or found.date_from <= found.date_to
