"""Tokens arrive while others are still being made, and a client that leaves frees the engine's slot."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from llama_index.core.llms import ChatMessage

from tests.integration.conftest import MIN_SCORE
from tests.support import asking, openai_clients, processes
from tests.support.asking import eventually, held
from tests.support.openai_clients import Frameworks
from tests.support.processes import Service

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
MESSAGES = [{"role": "user", "content": QUESTION}]
TOKENS = 2000
"""Of an answer that nobody wants shorter: 200 s, so that whatever ends in the time of a test was ended."""
SLOTS = 4


@pytest.fixture(scope="module")
def slow_models(logs: Path) -> Iterator[Service]:
    """An engine that may take 200 s for an answer, and makes four at a time."""
    service = processes.simulated_model_service(
        logs / "slow.log",
        simulated_first_token_seconds=0.2,
        simulated_token_seconds=0.1,
        simulated_answer_tokens=TOKENS,
        simulated_sequences=SLOTS,
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def slow_gateway(loaded: str, slow_models: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    """It lets more prompts onto the engine than that makes at a time, and pings often."""
    service = processes.gateway(
        logs / "slow-gateway.log",
        slow_models.url,
        milvus_lite.url,
        collection=loaded,
        min_score=MIN_SCORE,
        ping_seconds=0.05,
        replica_prompts=2 * SLOTS,
    )
    yield service.start()
    service.stop()


def test_the_first_token_arrives_before_the_last_is_made(slow_gateway: Service, slow_models: Service) -> None:
    body = {"question": QUESTION, "max_tokens": 60, "stream": True}  # 6 s
    with (
        asking.client(slow_gateway.url) as http,
        http.stream("POST", "/ask", json=body) as response,
    ):
        held_at: list[tuple[str, int]] = []
        for name, _ in asking.events(response):
            if name != "token" or not any(seen == "token" for seen, _ in held_at):
                held_at.append((name, held(slow_models.url)))
    assert held_at == [("meta", 1), ("sources", 1), ("token", 1), ("done", 0)]


@pytest.mark.parametrize("model", ["simulated", "documents"])
@pytest.mark.parametrize("whose", ["openai", "langchain", "llama_index"])
async def test_clients_of_others_have_the_first_token_before_the_last_is_made(
    slow_gateway: Service, slow_models: Service, model: str, whose: str
) -> None:
    def first_piece(frameworks: Frameworks, client: openai.OpenAI) -> tuple[str, Iterator[Any]]:
        """And the stream, which is still open."""
        chunks: Iterator[Any]
        if whose == "openai":
            asked: Any = {"model": model, "messages": MESSAGES, "max_tokens": TOKENS, "stream": True}
            chunks = client.chat.completions.create(**asked)
            pieces = (chunk.choices[0].delta.content or "" for chunk in chunks)
        elif whose == "langchain":
            chunks = frameworks.langchain_chat(model, max_tokens=TOKENS).stream(QUESTION)
            pieces = (str(chunk.content) for chunk in chunks)
        else:
            messages = [ChatMessage(role="user", content=QUESTION)]
            chunks = frameworks.llama_index_chat(model, max_tokens=TOKENS).stream_chat(messages)
            pieces = (chunk.delta or "" for chunk in chunks)
        return next(filter(None, pieces)), chunks

    assert eventually(lambda: held(slow_models.url) == 0)
    async with openai_clients.frameworks(slow_gateway) as frameworks:
        with openai_clients.client(slow_gateway) as client:
            piece, _open = await asyncio.to_thread(first_piece, frameworks, client)
            assert piece
            assert held(slow_models.url) == 1
    del _open
    assert eventually(lambda: held(slow_models.url) == 0)


@pytest.mark.parametrize(
    ("path", "asked", "token"),
    [
        ("/ask", {"question": QUESTION}, "event: token"),
        (
            "/v1/chat/completions",
            {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}]},
            '"delta":{"c',
        ),
    ],
)
def test_pings_keep_a_silent_stream_open(
    slow_gateway: Service, slow_models: Service, path: str, asked: dict[str, object], token: str
) -> None:
    body = {**asked, "max_tokens": 3, "stream": True}
    with asking.client(slow_gateway.url) as http, ExitStack() as filled:
        filled.enter_context(asking.no_slot_free(slow_models.url, SLOTS))
        with http.stream("POST", path, json=body) as response:
            lines = response.iter_lines()
            silent = list(itertools.takewhile(lambda line: line != ": ping", lines))
            filled.close()  # now there is a place for it
            rest = "\n".join(lines)
    assert not any(token in line for line in silent)
    assert rest.startswith("\n"), "an empty line ends the ping"
    assert token in rest


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave_after_seconds", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/ask", {"question": QUESTION, "max_tokens": TOKENS}),
        ("/v1/chat/completions", {"model": "documents", "messages": MESSAGES, "max_tokens": TOKENS}),
        ("/v1/chat/completions", {"model": "simulated", "messages": MESSAGES, "max_tokens": TOKENS}),
    ],
)
def test_closing_the_socket_frees_the_slot(
    slow_gateway: Service,
    slow_models: Service,
    path: str,
    asked: dict[str, object],
    stream: bool,
    leave_after_seconds: float,
) -> None:
    """Left before the first token and after it, streamed or not."""
    assert eventually(lambda: held(slow_models.url) == 0)
    host, _, port = slow_gateway.url.removeprefix("http://").partition(":")
    body = json.dumps({**asked, "stream": stream}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert eventually(lambda: held(slow_models.url) == 1)
        time.sleep(leave_after_seconds)
    assert eventually(lambda: held(slow_models.url) == 0)


def test_one_of_two_in_a_batch_leaves_and_the_other_goes_on(slow_models: Service) -> None:
    prompts = [
        {"request_id": name, "prompt": "a prompt", "max_tokens": tokens}
        for name, tokens in (("stays", 30), ("goes", TOKENS))
    ]
    with (
        httpx.Client(base_url=slow_models.url, timeout=120, trust_env=False) as http,
        http.stream("POST", "/generate", json={"prompts": prompts}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        http.post("/abort", json={"request_ids": ["goes"]}).raise_for_status()
        rest = "\n".join(lines)
    assert '"request_id":"goes","finish_reason":"abort"' in rest
    assert rest.count('"finish_reason":"length"') == 1
    assert eventually(lambda: held(slow_models.url) == 0)


def test_the_model_service_sees_a_closed_connection_while_no_token_comes(slow_models: Service) -> None:
    prompts = [{"request_id": "x", "prompt": "a prompt", "max_tokens": TOKENS}]
    with (
        httpx.Client(base_url=slow_models.url, timeout=120, trust_env=False) as http,
        http.stream("POST", "/generate", json={"prompts": prompts}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assert held(slow_models.url) == 1
    assert eventually(lambda: held(slow_models.url) == 0)
