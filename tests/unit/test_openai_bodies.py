"""What clients send under /v1: read strictly, translated, and refused with the parameter's name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from fastapi import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.errors import InvalidRequest, MalformedBody
from app.routes.openai.bodies import NEUTRAL, ChatBody, EmbeddingBody, in_openapi, read
from app.routes.openai.conversations import chat_request
from app.routes.openai.embeddings import texts_of
from app.settings import Settings
from app.terms import UNLIMITED
from contracts.types import Sampling

SETTINGS = Settings(max_tokens=100, max_tokens_max=200)
QUESTION = {"role": "user", "content": "Who won?"}


def request(body: bytes, content_type: str = "application/json") -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def chat(**body: object) -> ChatBody:
    whole = {"model": "m", "messages": [QUESTION], **body}
    return await read(request(json.dumps(whole).encode()), msgspec.json.Decoder(ChatBody))


async def sampling(**body: object) -> Sampling:
    return chat_request(await chat(**body), "id", UNLIMITED, SETTINGS).sampling


async def refusal(**body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        chat_request(await chat(**body), "id", UNLIMITED, SETTINGS)
    return refused.value


async def test_what_is_not_said_has_the_gateways_defaults() -> None:
    assert await sampling() == Sampling(max_tokens=100, temperature=0.0, top_p=1.0, stop=(), seed=None)
    nothing = dict.fromkeys(("max_tokens", "temperature", "top_p", "stop", "seed", "stream", "n", "tools"))
    assert await sampling(**nothing) == await sampling()


async def test_what_is_said_passes_through() -> None:
    said = {"temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 7}
    assert await sampling(max_completion_tokens=5, **said) == Sampling(5, 0.5, 0.9, ("a", "b"), 7)
    assert (await sampling(stop="\n")).stop == ("\n",)
    assert (await sampling(max_tokens=6)).max_tokens == 6
    assert (await sampling(max_tokens=6, max_completion_tokens=6)).max_tokens == 6


async def test_roles_and_parts_become_plain_messages() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "Ann"},
    ]
    asked = chat_request(await chat(messages=messages), "id", UNLIMITED, SETTINGS)
    assert [(m.role, m.content) for m in asked.messages] == [
        ("system", "Be brief."),
        ("assistant", "Yes."),
        ("user", "one\ntwo"),
    ]


@pytest.mark.parametrize("name", NEUTRAL)
async def test_a_parameter_that_would_change_the_answer_is_refused_by_name(name: str) -> None:
    refused = await refusal(**{name: {"some": "thing"}})
    assert refused.more["param"] == name
    assert refused.detail.startswith(f"{name}: is not supported; leave it out")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values])
async def test_a_parameter_that_changes_nothing_is_taken(name: str, value: object) -> None:
    assert await sampling(**{name: value}) == await sampling()


async def test_what_only_describes_the_request_is_ignored() -> None:
    said = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"}
    assert await sampling(**said) == await sampling()


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool' is not supported"),
        ({"messages": [QUESTION, {"role": "user"}]}, "messages[1].content", "is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "Expected"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "messages[0].content[0]",
            "'image_url' are not supported",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls",
            "tools are not supported",
        ),
        ({"max_tokens": 201}, "max_tokens", "at most 200"),
        ({"max_completion_tokens": 201}, "max_completion_tokens", "at most 200"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "one of them"),
        ({"temperature": 2.5}, "temperature", "<= 2"),
        ({"temperature": "hot"}, "temperature", "Expected"),
        ({"top_p": 0}, "top_p", "> 0"),
        ({"stop": ["a"] * 5}, "stop", "<= 4"),
        ({"stop": ""}, "stop", ">= 1"),
        ({"stop": [""]}, "stop", "empty"),
        ({"seed": -1}, "seed", ">= 0"),
        ({"colour": "red"}, "colour", "no parameter of this API"),
        ({"model": None}, "model", "Expected `str`"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_place(body: dict[str, Any], param: str, says: str) -> None:
    refused = await refusal(**body)
    assert refused.more["param"] == param
    assert refused.detail.startswith(param)
    assert says in refused.detail


async def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await read(request(b'{"model": "m"}'), msgspec.json.Decoder(ChatBody))
    assert (refused.value.detail, refused.value.more["param"]) == ("messages: is missing.", "messages")


@pytest.mark.parametrize("body", [b"", b"{", b'{"user": x}', b'{"model": "\xff"}', b'{"model": "\\ud800"}'])
async def test_what_is_not_json_is_said_to_be_that(body: bytes) -> None:
    with pytest.raises(MalformedBody) as refused:
        await read(request(body), msgspec.json.Decoder(ChatBody))
    assert ("surrogate" in refused.value.detail) == (b"ud800" in body)


async def test_a_body_must_be_declared_as_json() -> None:
    with pytest.raises(HTTPException) as refused:
        await read(request(b"{}", "text/plain"), msgspec.json.Decoder(ChatBody))
    assert refused.value.status_code == 415


async def test_a_client_that_leaves_while_sending_is_no_bad_body() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json")]
    leaving = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    with pytest.raises(ClientDisconnect):
        await read(leaving, msgspec.json.Decoder(ChatBody))


def test_one_text_or_several() -> None:
    assert texts_of("a") == ["a"]
    assert texts_of(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "between 1 and 2,048"),
        (["a"] * 2049, "between 1 and 2,048"),
        ([1, 2], "check_embedding_ctx_length=False"),
        ([[1, 2], [3]], "check_embedding_ctx_length=False"),
        (["a", None], "input[1]: is not a text"),
        ("", "leave it out"),
        (["a", ""], "leave it out"),
    ],
)
def test_what_is_no_text_is_not_encoded(given: str | list[Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        texts_of(given)
    assert says in refused.value.detail
    assert refused.value.more["param"] == "input"


@pytest.mark.parametrize("body", [ChatBody, EmbeddingBody])
def test_the_schema_stands_alone_and_every_supported_field_has_an_example(body: type[msgspec.Struct]) -> None:
    schema = in_openapi(body)["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in json.dumps(schema)
    described = {name for name, field in schema["properties"].items() if field != {"default": None}}
    assert {"model", "input"} <= described or {"messages", "stop", "seed", "stream"} <= described
    assert {name for name in described if not schema["properties"][name].get("examples")} == set()
