"""What the semantic cache would do with questions, as `python -m evaluation.similar_questions` counts it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from app_llm.simulated import HashEncoder
from contracts.types import Vectors
from evaluation import similar_questions as similar
from evaluation.similar_questions import THRESHOLDS, Asked, Share

QUESTIONS = [
    Asked("who won the cup in the final of the league", frozenset({"norvane"})),
    Asked("who has won the cup in the final of the league", frozenset({"norvane", "the club"})),
    Asked("who won the cup in a final of the league", frozenset({"another"})),
    Asked("where is the comet now", frozenset({"the sky"})),
    Asked("who won the cup in the final of the league of 2015", frozenset({"norvane"})),
]


def encode(texts: Sequence[str]) -> Vectors:
    return asyncio.run(HashEncoder(512).encode(texts)).vectors


def at(column: similar.Column, threshold: float) -> Share:
    return column.shares[THRESHOLDS.index(threshold)]


def test_a_question_gets_the_answer_of_the_nearest_other_one() -> None:
    column = similar.others(QUESTIONS, encode([question.text for question in QUESTIONS]))
    # The first two find each other; the third finds one of them, wrongly; the last names a number that nobody else has.
    assert at(column, 0.85) == Share(5, 2, 1)
    assert at(column, 0.99) == Share(5, 0, 0)


def test_a_question_in_another_form_should_find_itself() -> None:
    vectors = encode([question.text for question in QUESTIONS])
    assert at(similar.varied("lower", similar.lowered, QUESTIONS, vectors, encode, 9), 0.99) == Share(5, 5, 0)
    typing = similar.varied("typing", similar.mistyped, QUESTIONS, vectors, encode, 9)
    assert 0 < at(typing, 0.85).right < 5
    assert typing == similar.varied("typing", similar.mistyped, QUESTIONS, vectors, encode, 9), (
        "drawn the same each time"
    )


def test_another_number_is_wrong_however_near_and_pairs_that_name_others_are_not_found() -> None:
    assert at(similar.other_numbers(QUESTIONS, encode, 9), 0.85) == Share(1, 0, 1)
    pairs = [("who won in 2015", "who won in 2016"), ("who won the cup", "who won the cup?")]
    assert at(similar.paraphrases(pairs, encode), 0.85) == Share(2, 1, 0)


def test_forms_of_a_question() -> None:
    drawn = random.Random(1)
    assert similar.lowered("Who was the US president? ", drawn) == "who was the us president"
    assert similar.polite("Who was it?", drawn) == "Please tell me: Who was it?"
    assert similar.mistyped("a bc d", drawn) == "a bc d"
    typed = similar.mistyped("Who was president", drawn)
    assert typed != "Who was president"
    assert sorted(typed) == sorted("Who was president")


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(json.dumps({"question": "who?"}))
    for arguments in (["--questions", str(wrong)], ["--questions", "nowhere"], ["--data", ".", "--set", "nowhere"]):
        assert similar.main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
