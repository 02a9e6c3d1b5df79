"""What the LLM is asked for, and what of its words can be used."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.expansion import (
    TEXT_CHARS_MAX,
    Expansion,
    passage_of,
    passage_prompt,
    phrasings_of,
    phrasings_prompt,
    queries_of,
    together,
)
from contracts.types import Queries, Vectors

QUESTION = "Who won the 2024 cup?"


def test_the_prompts_hold_the_question_as_it_is() -> None:
    hard = 'How "do" {braces} and\nlines, 50 %, and Zelminstr (sic) fare?'
    for messages in (phrasings_prompt(hard, 4), passage_prompt(hard)):
        assert (messages[0].role, messages[-1].role) == ("system", "user")
        assert hard in messages[-1].content


@pytest.mark.parametrize("count", range(1, 9))
def test_the_example_has_as_many_phrasings_as_are_asked_for_and_is_not_taken_for_an_answer(count: int) -> None:
    _, example, answer, asked = phrasings_prompt(QUESTION, count)
    assert f"{count} other ways" in example.content
    assert f"{count} other ways" in asked.content
    assert len(answer.content.splitlines()) == count
    assert phrasings_of(f"{answer.content}\nWhich team?", QUESTION, 10) == ("Which team?",)


def test_what_is_far_longer_than_the_question_is_an_answer() -> None:
    answer = "It was won by " + "the team of the town of Tervola and " * 10
    assert phrasings_of(f"{answer}\nWhich team?", QUESTION, 3) == ("Which team?",)
    assert phrasings_of(answer, QUESTION * 30, 3) == (answer.strip(),)


@pytest.mark.parametrize(
    ("said", "phrasings"),
    [
        ("Which team took the cup?\nWho got it?", ["Which team took the cup?", "Who got it?"]),
        ("1. Which team?\n2) Whose cup?\n(3) Who?", ["Which team?", "Whose cup?", "Who?"]),
        ("- Which team?\n* Whose cup?\n• Who?", ["Which team?", "Whose cup?", "Who?"]),
        ('"Which team?"\n“Whose cup?”\n«Who?»', ["Which team?", "Whose cup?", "Who?"]),
        ("1. **Which team?**\n2. *Whose cup?*\n3. `Who?`", ["Which team?", "Whose cup?", "Who?"]),
        ('1. "Which team?",\n2. "Whose cup?"', ["Which team?", "Whose cup?"]),
        ("Question 1: Which team?\nQ2: Whose cup?\nQ: Who?", ["Which team?", "Whose cup?", "Who?"]),
        ("Here are three ways:\n\n1. Which team?\n\n\n2. Whose cup?", ["Which team?", "Whose cup?"]),
        ("1. Which team? 2. Whose cup? 3. Who?", ["Which team?", "Whose cup?", "Who?"]),
        ("who WON the 2024 cup\nWho won the 2024 cup?!\nWhich team?", ["Which team?"]),
        ("Which team?\nwhich team\n1. Which team?", ["Which team?"]),
        ("a?\nb?\nc?\nd?", ["a?", "b?", "c?"]),
        ("1.\n2.\n---\n...\n\n", []),
        ("", []),
        ("2024 cup: which team?\n3.5 million fans: where?", ["2024 cup: which team?", "3.5 million fans: where?"]),
        ("1、谁赢了？\n2、哪支队？", ["谁赢了？", "哪支队？"]),
        ("Кто выиграл?\r\nЧей кубок?", ["Кто выиграл?", "Чей кубок?"]),
        ("Which\x00 team?\u2028Whose cup?", ["Which team?", "Whose cup?"]),
        ("What's the players' cup?", ["What's the players' cup?"]),
    ],
)
def test_phrasings_are_found_however_they_are_listed(said: str, phrasings: list[str]) -> None:
    assert list(phrasings_of(said, QUESTION, 3)) == phrasings


def test_a_line_that_is_being_written_is_not_used() -> None:
    said = "1. Which team?\n2. Whose cu"
    assert phrasings_of(said, QUESTION, 3) == ("Which team?", "Whose cu")
    assert phrasings_of(said, QUESTION, 3, unfinished=True) == ("Which team?",)
    assert phrasings_of("1. Which te", QUESTION, 3, unfinished=True) == ()


@given(st.text(), st.integers(1, 5))
@example("\u2f00", 1)
def test_whatever_is_said_gives_lines_that_can_be_searched(said: str, count: int) -> None:
    phrasings = phrasings_of(said, QUESTION, count)
    assert len(phrasings) <= count
    assert len({text.casefold() for text in phrasings}) == len(phrasings)
    for text in phrasings:
        assert text == text.strip()
        # Composed, as they are compared: the radical \u2f00 is a symbol, and the character it stands for is a word.
        assert any(c.isalnum() or c == "_" for c in unicodedata.normalize("NFKC", text))
        assert not set(text) & set("\x00\r\n\t")
        # Said again, it is the same: nothing is left of the list's marks.
        assert phrasings_of(text, QUESTION, 1) in ((text,), ())


def test_a_passage_is_one_line_of_limited_length() -> None:
    assert passage_of(" The cup\nwent to \x00 Rovaniemi. ") == "The cup went to Rovaniemi."
    assert passage_of("…\n") == ""
    assert len(passage_of("word " * 1000)) <= TEXT_CHARS_MAX


def rows(*numbers: list[float]) -> Vectors:
    return np.array(numbers, dtype=np.float32)


OWN = rows([1, 0, 0])
OTHER = rows([1, 0, 0], [0, 1, 0], [0, 0, 1])


@pytest.mark.parametrize("expansion", [None, Expansion("hyde", ()), Expansion("multi_query", (), "overloaded")])
def test_without_more_words_the_question_is_searched_as_it_is(expansion: Expansion | None) -> None:
    queries = queries_of("q", expansion, OWN)
    assert (queries.texts, queries.asked) == (("q",), None)
    assert queries.vectors.tolist() == [[1, 0, 0]]


def test_phrasings_are_searched_beside_the_question_and_scored_by_it() -> None:
    queries = queries_of("q", Expansion("multi_query", ("r", "s")), OTHER)
    assert queries.texts == ("q", "r", "s")
    assert queries.vectors.tolist() == OTHER.tolist()
    assert queries.asked is not None
    assert queries.asked.texts == ("q", "q", "q")
    assert queries.asked.vectors.tolist() == [[1, 0, 0]] * 3


def test_passages_move_the_vector_and_nothing_else() -> None:
    queries = queries_of("q", Expansion("hyde", ("r", "s")), OTHER)
    assert queries.texts == ("q",)
    assert queries.vectors == pytest.approx(np.full((1, 3), 3**-0.5))
    assert queries.asked is not None
    assert queries.asked.texts == ("q",)
    assert queries.asked.vectors.tolist() == [[1, 0, 0]]


def test_passages_that_cancel_the_question_out_leave_it() -> None:
    queries = queries_of("q", Expansion("hyde", ("r",)), rows([1, 0], [-1, 0]))
    assert queries.vectors.tolist() == [[1, 0]]


def test_queries_travel_together() -> None:
    plain = Queries(("p",), rows([0, 1, 0]))
    several = queries_of("q", Expansion("multi_query", ("r",)), OTHER[:2])
    both = together([plain, several])
    assert both.texts == ("p", "q", "r")
    assert both.vectors.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert both.asked is not None
    assert both.asked.texts == ("p", "q", "q")
    assert both.asked.vectors.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert together([plain, plain]).asked is None
