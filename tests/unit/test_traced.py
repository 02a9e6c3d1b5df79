"""The model service's wrappers in this process: what the engine is told, and what a full house does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.errors import Overloaded
from app_llm.generator import Accepted, BatchedGenerator
from app_llm.settings import Settings
from app_llm.simulated import SimulatedEngine
from app_llm.traced import CallersSpan, TracedGenerator, vllm_joins
from contracts.types import Prompt
from observability.context import current
from observability.log_lines import capture
from observability.settings import OFF, TelemetrySettings
from observability.span_export import Exporting
from observability.tracing import Tracing
from tests.support.otlp_server import OtlpServer, otlp_server

PARENT = f"00-{'1' * 32}-{'a' * 16}-01"


class Listening(SimulatedEngine):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(Settings(simulated_first_token_seconds=0, simulated_token_seconds=0))
        self.told: list[str | None] = []

    async def accept(self, prompt: Prompt) -> Accepted:
        self.told.append(prompt.traceparent)
        return await super().accept(prompt)


@pytest.fixture
def backend() -> Iterator[OtlpServer]:
    with otlp_server() as server:
        yield server


@pytest.fixture
async def tracing(backend: OtlpServer) -> AsyncIterator[Tracing]:
    settings = TelemetrySettings(_env_file=None, traces_endpoint=backend.endpoint)
    # In the end it waits for a busy machine longer than a service would.
    async with Tracing(Exporting("app_llm", settings, "1.2.3", shutdown_seconds=60)) as started:
        yield started


async def test_the_engine_is_told_of_the_prompts_span(backend: OtlpServer, tracing: Tracing) -> None:
    engine = Listening()
    generator = TracedGenerator(BatchedGenerator(engine, prompts_max=4), tracing, "simulated")
    async with aclosing(generator.generate([Prompt("p", text="one", traceparent=PARENT)])) as frames:
        await anext(frames)
        assert (generator.held, generator.at_once) == (1, engine.at_once)
    tracing.close()
    span = backend.one("text_completion simulated")
    assert engine.told == [f"00-{'1' * 32}-{span.span_id}-01"]
    assert span.parent == "a" * 16


@pytest.mark.parametrize(("given", "trace_id"), [([(b"traceparent", PARENT.encode())], "1" * 32), ([], "")])
async def test_what_a_request_logs_is_in_its_callers_trace(given: list[tuple[bytes, bytes]], trace_id: str) -> None:
    seen: list[str] = []

    async def served(_: Scope, __: Receive, ___: Send) -> None:
        seen.append(capture(logging.LogRecord("a", logging.INFO, "", 0, "said", None, None)).context.trace_id)

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    async def send(_: Message) -> None: ...

    await CallersSpan(served)({"type": "http", "headers": given}, receive, send)
    assert seen == [trace_id]
    assert current.get() is None


async def test_prompts_for_which_there_is_no_room_have_failed(backend: OtlpServer, tracing: Tracing) -> None:
    generator = TracedGenerator(BatchedGenerator(Listening(), prompts_max=1), tracing, "simulated")
    with pytest.raises(Overloaded):
        await anext(generator.generate([Prompt("p", text="one"), Prompt("q", text="two")]))
    tracing.close()
    assert [span.attributes["error.type"] for span in backend.spans] == ["Overloaded", "Overloaded"]
    assert all(span.failed for span in backend.spans)


def test_vllm_is_given_no_endpoint_where_there_is_none() -> None:
    with vllm_joins(Tracing(), OFF) as endpoint:
        assert endpoint is None
