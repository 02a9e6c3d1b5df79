"""Tokens arrive while others are still being made, and a client that leaves frees the engine's slot."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import MIN_SCORE
from tests.support import asking, processes
from tests.support.asking import eventually, held
from tests.support.processes import Service

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
ANSWER_SECONDS = 20.0


@pytest.fixture(scope="module")
def slow_models(logs: Path) -> Iterator[Service]:
    """An engine that takes 20 s for an answer: whatever ends earlier was ended."""
    service = processes.simulated_model_service(
        logs / "slow.log",
        simulated_first_token_seconds=0.2,
        simulated_token_seconds=0.1,
        simulated_answer_tokens=int(ANSWER_SECONDS / 0.1),
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def slow_gateway(loaded: str, slow_models: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    service = processes.gateway(
        logs / "slow-gateway.log",
        slow_models.url,
        milvus_lite.url,
        collection=loaded,
        min_score=MIN_SCORE,
        ping_seconds=0.05,
    )
    yield service.start()
    service.stop()


def test_the_first_token_arrives_before_the_last_is_made(slow_gateway: Service, slow_models: Service) -> None:
    body = {"question": QUESTION, "max_tokens": 20, "stream": True}
    with (
        asking.client(slow_gateway.url) as http,
        http.stream("POST", "/ask", json=body) as response,
    ):
        held_at: list[tuple[str, int]] = []
        for name, _ in asking.events(response):
            if name != "token" or not any(seen == "token" for seen, _ in held_at):
                held_at.append((name, held(slow_models.url)))
    assert held_at == [("meta", 1), ("sources", 1), ("token", 1), ("done", 0)]


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
    slow_gateway: Service, path: str, asked: dict[str, object], token: str
) -> None:
    with (
        asking.client(slow_gateway.url) as http,
        http.stream("POST", path, json={**asked, "max_tokens": 3, "stream": True}) as response,
    ):
        text = response.read().decode()
    assert ": ping\n\n" in text
    assert text.index(": ping") < text.index(token)


MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave_after_seconds", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/ask", {"question": QUESTION}),
        ("/v1/chat/completions", {"model": "documents", "messages": MESSAGES}),
        ("/v1/chat/completions", {"model": "simulated", "messages": MESSAGES}),
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
    prompts = [{"request_id": name, "prompt": "a prompt", "max_tokens": 30} for name in ("stays", "goes")]
    with httpx.stream("POST", slow_models.url + "/generate", json={"prompts": prompts}, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        httpx.post(slow_models.url + "/abort", json={"request_ids": ["goes"]}, trust_env=False).raise_for_status()
        rest = "\n".join(lines)
    assert '"request_id":"goes","finish_reason":"abort"' in rest
    assert rest.count('"finish_reason":"length"') == 1
    assert eventually(lambda: held(slow_models.url) == 0)


def test_the_model_service_sees_a_closed_connection_while_no_token_comes(slow_models: Service) -> None:
    prompts = [{"request_id": "x", "prompt": "a prompt"}]
    with httpx.stream("POST", slow_models.url + "/generate", json={"prompts": prompts}, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        assert held(slow_models.url) == 1
    assert eventually(lambda: held(slow_models.url) == 0)
