"""OpenAI's API over a real socket, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from app_llm.simulated import HashEncoder
from tests.support import asking, openai_clients, processes
from tests.support.processes import Service

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
LLM, ENCODER = "simulated", "hash"


def said(content: str = QUESTION) -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.fixture
def client(gateway: Service) -> Iterator[openai.OpenAI]:
    with openai_clients.client(gateway) as opened:
        yield opened


def test_the_llm_the_encoder_and_the_topics_are_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:4] == [LLM, ENCODER, "documents", "topic:business"]
    assert len(names) == 9
    for name in names:
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "pharos")
        assert model.created <= time.time()
    with pytest.raises(openai.NotFoundError, match="Models to chat with: simulated, documents, topic:business"):
        client.models.retrieve("gpt-5")


def test_a_chat_with_the_llm(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=LLM, messages=said("one two three"), max_tokens=5)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert len((choice.message.content or "").split()) == 5
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
    assert answer.object == "chat.completion"
    assert answer.model == LLM
    assert "sources" not in answer.model_dump()
    assert client.chat.completions.create(model=LLM, messages=said()).choices[0].finish_reason == "stop"


def test_the_messages_go_to_the_llm_as_they_are(client: openai.OpenAI, simulated: Service) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Who won?"},
    ]
    answer = client.chat.completions.create(model=LLM, messages=messages, max_tokens=9, seed=3)
    prompt = {"request_id": "p", "messages": messages, "max_tokens": 9, "seed": 3}
    lines = httpx.post(simulated.url + "/generate", json={"prompts": [prompt]}, trust_env=False).text.splitlines()
    direct = "".join(delta.get("text", "") for line in lines for delta in json.loads(line)["deltas"])
    assert answer.choices[0].message.content == direct


@pytest.mark.parametrize("model", [LLM, "documents", "topic:business"])
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": said(), "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    # That they come one by one is shown with a slow engine (test_streaming.py): here a gateway that reads late may have
    # the whole answer at once.
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *content, last = chunks
    assert content[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in content] == [None] * (len(content) - 1) + ["length"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    without = list(client.chat.completions.create(**asked, stream=True))
    assert len(without) > 1
    assert all(chunk.usage is None and chunk.choices for chunk in without)


def test_a_topic_answers_from_its_documents_with_sources(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "topic:business", "messages": said(), "max_tokens": 3}
    answer = client.chat.completions.create(**asked).model_dump()
    assert "Bellmarsh" in answer["sources"][0]["title"]
    assert {source["topic"] for source in answer["sources"]} == {"business"}
    assert answer["timings"]["search"] > 0
    first, *later = client.chat.completions.create(**asked, stream=True)
    assert first.model_dump()["sources"] == answer["sources"]
    assert all("sources" not in chunk.model_dump() for chunk in later)
    assert later[-1].model_dump()["timings"]["total"] > 0


def test_the_question_is_the_last_user_message_and_the_answer_is_that_of_ask(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are a pirate."},
        *said("Who won the final?"),
        {"role": "assistant", "content": "Nobody."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    answer = client.chat.completions.create(model="documents", messages=messages, max_tokens=8).model_dump()
    asked = http.post("/ask", json={"question": QUESTION, "max_tokens": 8}).json()
    assert answer["choices"][0]["message"]["content"] == asked["answer"]
    assert answer["sources"] == asked["sources"]
    assert answer["usage"]["prompt_tokens"] == asked["usage"]["prompt_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_relevant_is_said_without_the_llm(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "documents", "messages": said("qqqq zzzz xxxx")}
    if stream:
        first, text, last = client.chat.completions.create(**asked, stream=True)
        assert first.model_dump()["sources"] == []
        assert text.choices[0].delta.content == "Not in the documents."
        assert last.choices[0].finish_reason == "stop"
    else:
        answer = client.chat.completions.create(**asked).model_dump()
        assert answer["sources"] == []
        assert answer["choices"][0]["message"]["content"] == "Not in the documents."
        assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("model", [LLM, "documents"])
def test_stop_and_seed_reach_the_engine(client: openai.OpenAI, model: str) -> None:
    def answer(**more: Any) -> tuple[str, str]:
        (choice,) = client.chat.completions.create(model=model, messages=said(), **more).choices
        return choice.message.content or "", choice.finish_reason

    whole, _ = answer()
    third = whole.split()[2]
    for stop in (third, ["never said", third]):
        assert answer(stop=stop) == (whole[: whole.index(third)], "stop")
    assert answer(seed=1) == answer(seed=1) != answer(seed=2)


async def test_the_async_client_whole_streamed_and_many_at_once(gateway: Service) -> None:
    async with openai_clients.async_client(gateway) as client:

        async def answer(i: int) -> str:
            asked = client.chat.completions.create(model=LLM, messages=said(f"Question {i}"), max_tokens=4)
            return (await asked).choices[0].message.content or ""

        async def streamed(i: int) -> str:
            chunks = await client.chat.completions.create(
                model=LLM, messages=said(f"Question {i}"), max_tokens=4, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

        whole = await asyncio.gather(*(answer(i) for i in range(24)))
        pieces = await asyncio.gather(*(streamed(i) for i in range(24)))
    assert whole == pieces
    assert len(set(whole)) == 24


async def test_embeddings_are_the_encoders(gateway: Service) -> None:
    texts = ["Oil fell to 41 dollars.", "Rain in Karachi", "Ω ≈ 3"]
    expected = await HashEncoder(384).encode(texts)
    async with openai_clients.async_client(gateway) as client:
        default = await client.embeddings.create(model=ENCODER, input=texts)  # base64, as this client prefers
        floats = await client.embeddings.create(model=ENCODER, input=texts, encoding_format="float", dimensions=384)
        single = await client.embeddings.create(model=ENCODER, input=texts[1])
    for answer in (default, floats):
        assert [item.index for item in answer.data] == [0, 1, 2]
        np.testing.assert_array_equal(np.array([d.embedding for d in answer.data], np.float32), expected.vectors)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(expected.tokens) == 11
        assert answer.model == ENCODER
    np.testing.assert_array_equal(np.array(single.data[0].embedding, np.float32), expected.vectors[1])


def test_base64_is_little_endian_float32(http: httpx.Client) -> None:
    body = {"model": ENCODER, "input": ["a b"]}
    (coded,) = http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"]
    (floats,) = http.post("/v1/embeddings", json=body).json()["data"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded["embedding"]), "<f4"), floats["embedding"])


async def test_many_embeddings_at_once_travel_together_and_are_each_their_own(
    gateway: Service, simulated: Service
) -> None:
    def calls() -> float:
        with asking.client(simulated.url) as models:
            return asking.metric(models, "http_requests_total", handler="/encode")

    texts = [f"sentence {i} about w{i % 7}" for i in range(64)]
    expected = (await HashEncoder(384).encode(texts)).vectors
    before = calls()
    async with openai_clients.async_client(gateway) as client:
        answers = await asyncio.gather(*(client.embeddings.create(model=ENCODER, input=text) for text in texts))
    assert 0 < calls() - before < len(texts)
    np.testing.assert_array_equal(np.array([a.data[0].embedding for a in answers], np.float32), expected)


def test_a_text_longer_than_the_encoders_window_is_cut_and_reported(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=ENCODER, input=["short", "word " * 300]).model_dump()
    assert answer["truncated"] == [1]
    assert "truncated" not in client.embeddings.create(model=ENCODER, input=["short"]).model_dump()


def test_thousands_of_texts_in_one_call(client: openai.OpenAI) -> None:
    """Two megabytes: what LangChain sends when it loads a corpus."""
    answer = client.embeddings.create(model=ENCODER, input=[f"{i} " + "lorem ipsum " * 80 for i in range(2048)])
    assert len(answer.data) == 2048


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    create, embed = client.chat.completions.create, client.embeddings.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="topic:gardening", messages=said())
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert "sports" in unknown.value.message
    with pytest.raises(openai.NotFoundError, match="makes embeddings"):
        create(model=ENCODER, messages=said())
    with pytest.raises(openai.NotFoundError, match="'hash' does"):
        embed(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError) as tools:
        create(model=LLM, messages=said(), tools=[{"type": "function", "function": {"name": "f"}}])
    assert (tools.value.param, tools.value.type) == ("tools", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as long:
        create(model=LLM, messages=said("word " * 5000))
    assert long.value.code == "context_length_exceeded"
    assert "by at least" in long.value.message
    with pytest.raises(openai.BadRequestError) as room:
        create(model="documents", messages=said("Norvane Bellmarsh " + "a " * 980))
    assert room.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most 2,000"):
        create(model="documents", messages=said("x" * 3000))
    with pytest.raises(openai.BadRequestError, match="need a question"):
        create(model="documents", messages=[{"role": "system", "content": "Be brief."}])
    with pytest.raises(openai.BadRequestError, match="at most 2,048"):
        create(model=LLM, messages=said(), max_completion_tokens=10**6)
    with pytest.raises(openai.BadRequestError, match="384 dimensions and no others"):
        embed(model=ENCODER, input="a", dimensions=512)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embed(model=ENCODER, input=[[1, 2, 3]])


def test_a_streamed_request_is_refused_before_its_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=LLM, messages=said("word " * 5000), stream=True)
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("method", "path", "content", "content_type", "status", "code"),
    [
        ("GET", "/v1/nowhere", b"", "", 404, "not_found"),
        ("GET", "/v1/", b"", "", 404, "not_found"),
        ("GET", "/v1/models/nobody/has-this", b"", "", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", b"", "", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", b"{", "application/json", 400, "malformed_json"),
        ("POST", "/v1/chat/completions", b"[]", "application/json", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"{}", "text/plain", 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", b" " * 1_100_000, "application/json", 413, None),
        ("POST", "/v1/embeddings", b" " * 17_000_000, "application/json", 413, None),
        ("POST", "/v1/embeddings", b'{"model": "hash"}', "application/json", 400, "invalid_request"),
    ],
)
def test_every_error_under_v1_is_openais(
    http: httpx.Client, method: str, path: str, content: bytes, content_type: str, status: int, code: str | None
) -> None:
    response = http.request(method, path, content=content, headers={"content-type": content_type})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert code is None or error["code"] == code
    assert error["message"]


def test_the_routes_are_described(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    chat = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["properties"]["messages"]["examples"]
    assert (
        "input" in paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"]
    )
    assert {"/v1/models", "/v1/models/{model}"} <= set(paths)


def test_keys_and_their_budgets_are_the_clients_own_exceptions_too(
    simulated: Service, milvus_lite: Service, logs: Path
) -> None:
    keys = {"team": {"key": "a-good-key", "requests_per_minute": 1}}
    gateway = processes.gateway(logs / "keys-gateway.log", simulated.url, milvus_lite.url, api_keys=json.dumps(keys))
    try:
        gateway.start()
        with openai_clients.client(gateway) as stranger, pytest.raises(openai.AuthenticationError) as unknown:
            stranger.models.list()
        assert unknown.value.code == "invalid_api_key"
        with openai_clients.client(gateway, "a-good-key") as client:
            client.embeddings.create(model=ENCODER, input="a")
            with pytest.raises(openai.RateLimitError) as over:
                client.embeddings.create(model=ENCODER, input="a")
        assert (over.value.code, over.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert int(over.value.response.headers["retry-after"]) >= 1
    finally:
        gateway.stop()


def test_a_failure_in_the_middle_ends_the_stream_with_an_error(
    loaded: str, milvus_lite: Service, logs: Path, tmp_path: Path
) -> None:
    models = processes.simulated_model_service(
        tmp_path / "failing.log", simulated_failure_rate=1, simulated_answer_tokens=8
    )
    models.start()
    gateway = processes.gateway(logs / "failing-gateway.log", models.url, milvus_lite.url, collection=loaded)
    try:
        gateway.start()
        with openai_clients.client(gateway) as client:
            stream = client.chat.completions.create(model=LLM, messages=said(), stream=True)
            texts: list[str] = []
            with pytest.raises(openai.APIError) as failed:
                texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
            assert failed.value.code == "model_service_failed"
            with pytest.raises(openai.InternalServerError) as whole:
                client.chat.completions.create(model=LLM, messages=said())
            assert whole.value.status_code == 502
        with asking.client(gateway.url) as http:
            body = {"model": LLM, "messages": said(), "stream": True}
            raw = http.post("/v1/chat/completions", json=body).text
            assert '"content":"' in raw
            assert raw.rstrip().rsplit("\n\n", 1)[1].startswith('data: {"error":')
            assert "[DONE]" not in raw
            models.kill()
            for path, down in (("chat/completions", body), ("embeddings", {"model": ENCODER, "input": "a"})):
                response = http.post(f"/v1/{path}", json=down)
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "model_service_down"
                assert response.json()["error"]["type"] == "server_error"
    finally:
        gateway.stop()
        models.stop()
