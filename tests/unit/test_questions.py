"""The limits of a question's body that are settings."""

from __future__ import annotations

import pytest

from app.errors import InvalidRequest
from app.routes.ask import AskBody
from app.routes.questions import within


def top_k(most: int, **body: object) -> int:
    asked = AskBody.model_validate({"question": "What?", **body})
    return within(asked, asked.top_k, question_chars_max=100, top_k_max=most)


def test_the_default_is_no_more_than_is_allowed() -> None:
    assert top_k(20) == AskBody.model_fields["top_k"].default
    assert top_k(3) == 3


def test_what_is_asked_for_is_refused_beyond_it() -> None:
    assert top_k(3, top_k=3) == 3
    with pytest.raises(InvalidRequest, match="at most 3"):
        top_k(3, top_k=5)
