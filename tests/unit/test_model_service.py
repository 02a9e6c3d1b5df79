"""The model service's HTTP side in this process: readiness, draining, and the time a call has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from app.serving import Gate
from app_llm.main import create_app
from app_llm.settings import Settings
from tests.support.asgi import ask

SETTINGS = Settings(
    engine="simulated",
    encoder="hash",
    simulated_first_token_seconds=0,
    simulated_token_seconds=0,
    simulated_sequences=3,
    simulated_dimension=4,
)
TEXTS = {"texts": ["one", "two words"]}


@asynccontextmanager
async def service(gate: Gate | None = None) -> AsyncIterator[FastAPI]:
    """The application, once it is ready."""
    app = create_app(SETTINGS, gate or Gate())
    async with app.router.lifespan_context(app):
        for _ in range(1000):  # turns, of which the simulated models need some
            if (await ask(app, "GET", "/readyz")).status == 200:
                break
            await asyncio.sleep(0)
        yield app


async def test_it_is_alive_before_it_is_ready() -> None:
    app = create_app(SETTINGS, Gate())
    assert (await ask(app, "GET", "/healthz")).status == 200
    loading = await ask(app, "GET", "/readyz")
    assert (loading.status, loading.json["code"]) == (503, "not_ready")
    assert loading.headers["retry-after"] == "2"
    assert (await ask(app, "POST", "/encode", TEXTS)).json["code"] == "not_ready"


async def test_readiness_says_how_many_prompts_it_holds_and_can_run() -> None:
    async with service() as app:
        assert (await ask(app, "GET", "/readyz")).json == {"status": "ready", "prompts_held": 0, "prompts_at_once": 3}


async def test_while_it_drains_it_says_so_and_takes_no_work() -> None:
    gate = Gate()
    async with service(gate) as app:
        gate.closed = True
        draining = await ask(app, "GET", "/readyz")
        assert (draining.status, draining.json["status"]) == (503, "draining")
        for path, body in (("/encode", TEXTS), ("/generate", {"prompts": []}), ("/llm_ask", {"prompts": []})):
            refused = await ask(app, "POST", path, body)
            assert (refused.status, refused.json["code"]) == (503, "draining")
        # What helps running work to end is still taken.
        assert (await ask(app, "POST", "/abort", {"request_ids": ["p"]})).status == 204
        assert (await ask(app, "GET", "/models")).status == 200
        assert gate.inside == 0


async def test_encode_takes_a_timeout() -> None:
    async with service() as app:
        answer = await ask(app, "POST", "/encode", TEXTS, x_request_timeout="5")
        assert (answer.status, len(answer.json["vectors"])) == (200, 2)


@pytest.mark.parametrize("header", ["0", "-1", "nan", "soon"])
async def test_encode_refuses_a_timeout_that_is_none(header: str) -> None:
    async with service() as app:
        answer = await ask(app, "POST", "/encode", TEXTS, x_request_timeout=header)
        assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_encode_whose_time_runs_out_before_its_turn_is_a_504() -> None:
    """The encoder's batcher takes its deadline from the header."""
    async with service() as app:
        answer = await ask(app, "POST", "/encode", TEXTS, x_request_timeout="1e-9")
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert answer.json["retryable"] is True


async def test_a_prompt_whose_time_has_run_out_fails_alone() -> None:
    prompts = [
        {"request_id": "late", "prompt": "some words", "timeout_seconds": -1},
        {"request_id": "good", "prompt": "some words", "max_tokens": 2, "timeout_seconds": 60},
        {"request_id": "odd", "prompt": "some words", "timeout_seconds": "soon"},
    ]
    async with service() as app:
        answer = await ask(app, "POST", "/generate", {"prompts": prompts})
        assert answer.status == 200
        lines = answer.body.decode().splitlines()
        assert '"late"' in lines[0]
        assert '"deadline_exceeded"' in lines[0]
        assert '"odd"' in lines[0]
        assert '"invalid_prompt"' in lines[0]
        assert '"length"' in lines[-1]
        alone = await ask(app, "POST", "/generate", {"prompts": prompts[:1]})
        assert (alone.status, alone.json["code"]) == (504, "prompts_refused")
