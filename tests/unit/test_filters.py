"""Typed filters to expressions, from which no value breaks out."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.filters import day_number, expression
from contracts.types import Filters


def test_nothing_asked_is_nothing_said() -> None:
    assert expression([], Filters()) == ""


def test_everything_that_is_given_must_hold() -> None:
    filters = Filters("2025-01-02", "2025-02-03", ("d1",), ("Ann", "Bob"), (("desk", ("a", "b")),))
    assert expression(["t"], filters) == (
        'topic == "t" and day >= 20250102 and day > 0 and day <= 20250203 and document_id == "d1" and '
        'author in ["Ann", "Bob"] and (metadata["desk"] == "a" or metadata["desk"] == "b")'
    )


@pytest.mark.parametrize(
    ("date", "number"),
    [
        ("2025-01-02", 20250102),
        ("2025-01-02T03:04", 20250102),
        ("", 0),
        ("2025", 0),
        ("2025-01-023", 0),
        ("5 May 2025", 0),
    ],
)
def test_days_are_numbers(date: str, number: int) -> None:
    assert day_number(date) == number


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"])))
def test_a_value_is_one_string_literal(value: str) -> None:
    written = expression([], Filters(authors=(value,)))
    literal = written.removeprefix("author == ")
    assert re.fullmatch(r'"(?:[^"\\\n\r]|\\["\\])*"', literal)
    assert json.loads(literal) == value


@pytest.mark.parametrize("value", ["\x00", "a\x1fb", "\x0c"])
def test_a_control_character_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        expression([], Filters(authors=(value,)))


@pytest.mark.parametrize("name", ["", 'a"b', "a b", "a\n", "a]", "é", "x" * 65])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a field"):
        expression([], Filters(metadata=((name, ("x",)),)))
