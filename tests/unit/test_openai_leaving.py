"""A client that leaves while its texts are being encoded, or is refused, takes no work with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import msgspec
import pytest
from starlette.types import Message

from app.adapters.memory import MemoryStore
from app.adapters.network import Adapters
from app.errors import Overloaded
from app.main import create_app
from app.replicas import Address, Health, Replicas
from app.settings import Settings
from app_llm.generator import BatchedGenerator
from app_llm.settings import Settings as ModelSettings
from app_llm.simulated import SimulatedEngine
from contracts.ports import Encoder
from contracts.types import Encoding, ModelCard, Readiness


class EndlessEncoder:
    """Encodes until it is cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError("nobody sets it")


class FullEncoder:
    """Has as much to do as it may."""

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        raise Overloaded("Too much is waiting; try again in a moment.")


class Client:
    """A model service in this process."""

    def __init__(self, encoder: Encoder) -> None:
        engine = SimulatedEngine(ModelSettings())
        self.encoder = encoder
        self.generator = BatchedGenerator(engine, prompts_max=8)
        self._tokenizer = engine.tokenizer_json()

    async def readiness(self) -> Readiness:
        return Readiness("ready", prompts_at_once=8)

    async def card(self) -> ModelCard:
        return ModelCard("encoder", 2, 256, "llm", 4096, "simulated")

    async def tokenizer(self) -> str:
        return self._tokenizer

    async def close(self) -> None: ...


async def one_address() -> list[Address]:
    return [Address("http://model", "model")]


async def nothing() -> None: ...


async def yes() -> bool:
    return True


async def post(encoder: Encoder, path: str, body: object, left: asyncio.Event) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request to a gateway in this process by a client that leaves when `left` is set."""
    client = Client(encoder)
    replicas = Replicas(one_address, lambda _: client, Health(failures=3, probe_seconds=60, resolve_seconds=60))
    app = create_app(Settings(), adapters=Adapters(replicas, MemoryStore(), yes, nothing))
    requests: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]
    sent: list[Message] = []

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(app(scope, receive, send), 60)
    body_sent = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), body_sent


async def test_a_client_that_leaves_stops_its_encoding() -> None:
    encoder, left = EndlessEncoder(), asyncio.Event()
    asking = asyncio.create_task(post(encoder, "/v1/embeddings", {"model": "encoder", "input": "a"}, left))
    await asyncio.wait_for(encoder.began.wait(), 60)
    assert not encoder.cancelled.is_set()
    left.set()
    status, _, _ = await asking
    assert status == 499
    assert encoder.cancelled.is_set()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_encoding_of_its_question(stream: bool) -> None:
    encoder, left = EndlessEncoder(), asyncio.Event()
    body = {"model": "documents", "messages": [{"role": "user", "content": "Who won?"}], "stream": stream}
    asking = asyncio.create_task(post(encoder, "/v1/chat/completions", body, left))
    await asyncio.wait_for(encoder.began.wait(), 60)
    left.set()
    status, _, _ = await asking
    assert status == 499
    await asyncio.wait_for(encoder.cancelled.wait(), 60)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "encoder", "input": "a"}),
        ("/v1/chat/completions", {"model": "documents", "messages": [{"role": "user", "content": "Who won?"}]}),
    ],
)
async def test_a_full_queue_is_openais_503_with_retry_after(path: str, body: object) -> None:
    status, headers, answer = await post(FullEncoder(), path, body, asyncio.Event())
    assert status == 503
    assert int(headers[b"retry-after"]) >= 1
    error = msgspec.json.decode(answer)["error"]
    assert (error["type"], error["code"]) == ("server_error", "overloaded")
