"""Load tests: answers that cannot be true are found, and those that can be are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from locust_testing import plausibility
from locust_testing.stream import NOTHING_RELEVANT, Stream

MAX_TOKENS = 16


def good() -> Stream:
    """Four token events of five tokens: two came as one, since the client read slowly."""
    return Stream(
        sent=10.0,
        names=["meta", "sources", *["token"] * 4, "done"],
        token_times=[10.5, 11.0, 11.5, 12.0],
        ended=12.01,
        done={
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 50, "completion_tokens": 5},
            "timings": {"time_to_first_token": 0.49, "generate": 1.9, "total": 2.0},
        },
    )


def nothing_relevant() -> Stream:
    return Stream(
        sent=10.0,
        names=["meta", "sources", "token", "done"],
        token_times=[10.1],
        ended=10.1,
        done={
            "finish_reason": NOTHING_RELEVANT,
            "usage": {"prompt_tokens": 0, "completion_tokens": 0},
            "timings": {"time_to_first_token": None, "generate": None, "total": 0.09},
        },
    )


def failed() -> Stream:
    return Stream(sent=1.0, names=["meta", "sources", "token", "error"], token_times=[2.0], ended=3.0, error={})


@pytest.mark.parametrize("stream", [good(), nothing_relevant(), failed()])
def test_answers_that_can_be_true(stream: Stream) -> None:
    assert plausibility.of_stream(stream, MAX_TOKENS) == []


def usage(tokens: int) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        assert stream.done is not None
        stream.done["usage"]["completion_tokens"] = tokens

    return change


def timing(name: str, seconds: float) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        assert stream.done is not None
        stream.done["timings"][name] = seconds

    return change


def names(*given: str) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        stream.names[:] = given

    return change


def times(*given: float) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        stream.token_times[:] = given

    return change


def without(name: str) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        assert stream.done is not None
        del stream.done[name]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (names("meta", "sources", "token"), "0 events done or error"),
        (names("meta", "sources", "token", "done", "done"), "2 events done or error"),
        (names("meta", "sources", "error", "token", "done"), "2 events done or error"),
        (names("meta", "sources", "done", "token"), "after done or error"),
        (names("sources", "meta", "token", "done"), "does not begin"),
        (names("meta", "sources", "token", "sources", "done"), "something else than tokens"),
        (names(), "0 events done or error"),
        (times(11.0, 10.5, 11.5, 12.0), "time ran backwards"),
        (times(9.9, 11.0, 11.5, 12.0), "time ran backwards"),
        (times(10.51, 11.0, 11.5, 12.5), "time ran backwards"),
        (times(11.99, 12.0, 12.0, 12.0), "something on the way buffers"),
        (usage(3), "fewer tokens"),
        (usage(MAX_TOKENS + 1), "more tokens than were asked for"),
        (timing("time_to_first_token", 0.6), "before the server"),
        (timing("time_to_first_token", 2.1), "first token came after its end"),
        (timing("total", 2.2), "longer than the client waited"),
        (without("usage"), "does not say its usage"),
        (without("timings"), "does not say its timings"),
    ],
)
def test_answers_that_cannot_be_true(change: Callable[[Stream], None], said: str) -> None:
    stream = copy.deepcopy(good())
    change(stream)
    assert said in "; ".join(plausibility.of_stream(stream, MAX_TOKENS))


def test_few_tokens_may_be_parts_of_one_character_but_many_have_text() -> None:
    stream = good()
    times()(stream)
    usage(plausibility.TEXTLESS_TOKENS)(stream)
    assert plausibility.of_stream(stream, MAX_TOKENS) == []
    usage(plausibility.TEXTLESS_TOKENS + 1)(stream)
    assert plausibility.of_stream(stream, MAX_TOKENS) == ["usage counts tokens, and none came"]


def test_an_answer_that_no_model_gave_uses_no_tokens() -> None:
    stream = nothing_relevant()
    usage(1)(stream)
    assert plausibility.of_stream(stream, MAX_TOKENS) == ["tokens were used for an answer that no model gave"]


ANSWER: dict[str, Any] = {
    "answer": "Yes [1].",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 50, "completion_tokens": 4},
    "timings": {"time_to_first_token": 0.5, "generate": 0.9, "total": 1.0},
}


def test_whole_answers() -> None:
    assert plausibility.of_answer(ANSWER, 1.01, MAX_TOKENS) == []
    assert "longer than the client waited" in plausibility.of_answer(ANSWER, 0.9, MAX_TOKENS)[0]
    assert plausibility.of_answer({**ANSWER, "answer": ""}, 1.01, MAX_TOKENS) == ["an answer without text"]
    assert "more tokens" in plausibility.of_answer(ANSWER, 1.01, 3)[0]
