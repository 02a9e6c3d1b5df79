"""Prompts within a token budget, counted in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.prompting import (
    CHAT_TEMPLATE_TOKENS,
    INSTRUCTIONS,
    NOT_IN_DOCUMENTS,
    WORTH_CUTTING_TOKENS,
    GroundedPrompt,
    grounded_prompt,
)
from contracts.types import Passage, PromptOrder


class WordRuler:
    """A token is a word."""

    def count(self, text: str) -> int:
        return len(text.split())

    def cut(self, text: str, tokens: int) -> str:
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        return text[: ends[tokens - 1]] if 0 < tokens <= len(ends) else text * (tokens > 0)


RULER = WordRuler()
QUESTION = "Who won the final?"


def passage(name: str, words: int, *, title: str = "", date: str = "") -> Passage:
    text = " ".join(f"{name}{i}" for i in range(words))
    return Passage(name, f"doc-{name}", title or f"Title-{name}", "sports", date, text, 0.5)


def length(prompt: GroundedPrompt) -> int:
    return sum(RULER.count(message.content) for message in prompt.messages) + CHAT_TEMPLATE_TOKENS


EMPTY = length(grounded_prompt(QUESTION, [], 0, RULER))
"""What a prompt without passages takes."""
HEADER = 2
"""`[1] Title-a`."""


def test_the_instructions_come_first_and_the_question_after_the_passages() -> None:
    prompt = grounded_prompt(QUESTION, [passage("a", 2), passage("b", 3)], 1000, RULER)
    system, user = prompt.messages
    assert (system.role, system.content) == ("system", INSTRUCTIONS)
    assert user.role == "user"
    assert user.content.count(QUESTION) == 1
    assert user.content.index(QUESTION) > max(user.content.index("a0 a1"), user.content.index("b0 b1 b2"))


def test_the_model_is_told_to_cite_and_what_to_say_when_it_does_not_know() -> None:
    assert "[1]" in INSTRUCTIONS
    assert NOT_IN_DOCUMENTS in INSTRUCTIONS


def test_passages_are_kept_best_first_and_numbered_as_they_are_cited() -> None:
    # Where in the message each one stands is a matter of what the model reads best.
    found = [passage(name, 3) for name in "cab"]
    prompt = grounded_prompt(QUESTION, found, 1000, RULER)
    assert prompt.passages == tuple(found)
    numbered = re.findall(r"\[(\d)\] Title-(\w)\n(\w)0 ", prompt.messages[1].content)
    assert sorted(numbered) == [("1", "c", "c"), ("2", "a", "a"), ("3", "b", "b")]


@pytest.mark.parametrize(
    ("order", "places"), [("best_last", "54321"), ("best_first", "12345"), ("ends", "24531"), (None, "54321")]
)
def test_the_best_passages_stand_where_they_are_wanted(order: PromptOrder | None, places: str) -> None:
    found = [passage(name, 3) for name in "abcde"]
    prompt = grounded_prompt(QUESTION, found, 1000, RULER, *([order] if order else []))
    assert "".join(re.findall(r"\[(\d)\] Title", prompt.messages[1].content)) == places
    assert prompt.passages == tuple(found)


@pytest.mark.parametrize(
    ("date", "header"), [("2024-02-03", "[1] Rain at last (2024-02-03)\n"), ("", "[1] Rain at last\n")]
)
def test_a_passage_is_headed_by_its_title_and_date(date: str, header: str) -> None:
    prompt = grounded_prompt(QUESTION, [passage("a", 3, title="Rain at last", date=date)], 1000, RULER)
    assert header + "a0 a1 a2\n" in prompt.messages[1].content


def test_what_fits_exactly_is_whole() -> None:
    found = [passage("a", 50), passage("b", 50)]
    prompt = grounded_prompt(QUESTION, found, EMPTY + 2 * (HEADER + 50), RULER)
    assert prompt.passages == tuple(found)
    assert length(prompt) == EMPTY + 2 * (HEADER + 50)


def test_the_last_passage_is_cut_to_what_is_left() -> None:
    found = [passage("a", 50), passage("b", 50), passage("c", 1)]
    budget = EMPTY + 2 * (HEADER + 50) - 10
    prompt = grounded_prompt(QUESTION, found, budget, RULER)
    assert [p.id for p in prompt.passages] == ["a", "b"]
    assert prompt.passages[0] == found[0]
    assert prompt.passages[1].text == " ".join(f"b{i}" for i in range(40))
    assert prompt.passages[1].text in prompt.messages[1].content
    assert not re.search(r"\bb40\b", prompt.messages[1].content)
    assert length(prompt) == budget


@pytest.mark.parametrize(("left", "kept"), [(WORTH_CUTTING_TOKENS, 1), (WORTH_CUTTING_TOKENS - 1, 0)])
def test_a_stump_is_left_out(left: int, kept: int) -> None:
    prompt = grounded_prompt(QUESTION, [passage("a", 100)], EMPTY + HEADER + left, RULER)
    assert [RULER.count(p.text) for p in prompt.passages] == [left] * kept


@pytest.mark.parametrize("budget", [0, EMPTY - 1, EMPTY, EMPTY + HEADER + 2])
def test_when_nothing_fits_there_are_no_passages_and_the_question_is_whole(budget: int) -> None:
    prompt = grounded_prompt(QUESTION, [passage("a", 3), passage("b", 1)], budget, RULER)
    assert prompt.passages == ()
    assert QUESTION in prompt.messages[1].content
    assert not re.search(r"Title|\[\d\]", prompt.messages[1].content)


PASSAGES = st.lists(
    st.builds(
        passage,
        st.sampled_from("abc"),
        st.integers(0, 80),
        title=st.sampled_from(["Rain", "Rain in Karachi at last"]),
        date=st.sampled_from(["", "2024-02-03"]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(PASSAGES, st.integers(0, 400))
def test_the_budget_is_kept_and_the_passages_are_the_best_ones(found: list[Passage], over: int) -> None:
    prompt = grounded_prompt(QUESTION, found, EMPTY + over, RULER)
    assert length(prompt) <= EMPTY + over
    count = len(prompt.passages)
    assert [p.id for p in prompt.passages] == [p.id for p in found[:count]]
    assert list(prompt.passages[:-1]) == found[: max(0, count - 1)]
    assert all(given.text.startswith(kept.text) for given, kept in zip(found, prompt.passages, strict=False))


@settings(deadline=None)
@given(PASSAGES, st.integers(0, 400), st.integers(0, 400))
def test_a_larger_budget_never_gives_less(found: list[Passage], over: int, more: int) -> None:
    small = grounded_prompt(QUESTION, found, EMPTY + over, RULER)
    large = grounded_prompt(QUESTION, found, EMPTY + over + more, RULER)
    assert length(small) <= length(large)
    assert len(small.passages) <= len(large.passages)
