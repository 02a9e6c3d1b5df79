"""Events of a chat as OpenAI's objects and chunks, and problems as its error object."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.asking import Done, Sources, Text
from app.chatting import Accepted, ChatEvent
from app.errors import ModelServiceFailed, Overloaded, PromptTooLong, UnknownModel, presentable
from app.routes.openai.completions import ChunkWriter, whole
from app.routes.openai.errors import error_object
from contracts.problems import ProblemError
from contracts.types import Passage, Timings, Usage

TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3)
PASSAGE = Passage("p", "d", "A title", "science", "2025-09-30", "Some text.", 0.123456)


def done(reason: str = "stop") -> Done:
    return Done(reason, Usage(5, 2), TIMINGS)


def data(written: bytes) -> list[Any]:
    events = written.decode().split("\n\n")
    assert events.pop() == ""
    return [event if event == "data: [DONE]" else json.loads(event.removeprefix("data: ")) for event in events]


async def events(*given: ChatEvent) -> AsyncGenerator[ChatEvent, None]:
    for event in given:
        yield event


async def test_the_llm_alone_has_no_sources_and_the_documents_have() -> None:
    alone = await whole("m", events(Accepted(), Text("a"), Text(" b"), done()))
    grounded = await whole("m", events(Sources((PASSAGE,), "dense"), Text("a"), done()))
    assert alone.choices[0].message.content == "a b"
    assert not alone.sources
    assert isinstance(grounded.sources, tuple)
    assert grounded.sources[0].score == 0.1235
    assert (alone.usage.prompt_tokens, alone.usage.completion_tokens, alone.usage.total_tokens) == (5, 2, 7)


@pytest.mark.parametrize(("reason", "shown"), [("stop", "stop"), ("length", "length"), ("nothing_relevant", "stop")])
async def test_finish_reasons_are_openais(reason: str, shown: str) -> None:
    assert (await whole("m", events(Accepted(), done(reason)))).choices[0].finish_reason == shown
    (last, end) = data(ChunkWriter("m", include_usage=False).write(done(reason)))
    assert last["choices"][0]["finish_reason"] == shown
    assert end == "data: [DONE]"


async def test_an_answer_that_was_aborted_is_no_answer() -> None:
    with pytest.raises(ModelServiceFailed):
        await whole("m", events(Accepted(), Text("a"), done("abort")))
    with pytest.raises(ModelServiceFailed):
        ChunkWriter("m", include_usage=False).write(done("abort"))


def test_a_stream_is_a_role_then_texts_then_the_reason() -> None:
    writer = ChunkWriter("m", include_usage=False)
    chunks = data(b"".join(writer.write(event) for event in (Sources((PASSAGE,), "dense"), Text("a"), done())))
    assert chunks.pop() == "data: [DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert ["sources" in chunk for chunk in chunks] == [True, False, False]
    assert ["timings" in chunk for chunk in chunks] == [False, False, True]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_is_null_until_a_last_chunk_without_choices() -> None:
    writer = ChunkWriter("m", include_usage=True)
    *chunks, last, end = data(b"".join(writer.write(event) for event in (Accepted(), Text("a"), done())))
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert last["choices"] == []
    assert end == "data: [DONE]"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_in_any_model_is_written_as_json(text: str, model: str) -> None:
    (chunk,) = data(ChunkWriter(model.replace("\0", ""), include_usage=True).write(Text(text)))
    assert chunk["choices"][0]["delta"] == {"content": text}
    assert chunk["model"] == model.replace("\0", "")


def test_an_error_ends_a_stream_without_done() -> None:
    writer = ChunkWriter("m", include_usage=True)
    assert data(writer.write_error(ModelServiceFailed("It broke."))) == [
        {"error": {"message": "It broke.", "type": "server_error", "param": None, "code": "model_service_failed"}}
    ]
    (fault,) = data(writer.write_error(presentable(ZeroDivisionError("secret"))))
    assert fault["error"]["code"] == "internal"
    assert "secret" not in fault["error"]["message"]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (PromptTooLong("x"), "invalid_request_error", "context_length_exceeded"),
        (UnknownModel("x", param="model"), "invalid_request_error", "model_not_found"),
        (Overloaded("x"), "server_error", "overloaded"),
    ],
)
def test_problems_have_openais_names(error: ProblemError, kind: str, code: str) -> None:
    shown = error_object(error.body("id"))["error"]
    assert shown == {"message": "x", "type": kind, "param": error.more.get("param"), "code": code}
