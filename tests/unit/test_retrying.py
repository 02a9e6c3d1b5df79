"""What goes on to another replica, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from app.errors import ModelServiceDown
from app.replicas import Address, Health, Replicas
from app.replicated import ReplicatedGenerator
from contracts.types import Delta, Frame, ModelCard, Prompt, Readiness


class DyingReplica:
    """Accepts prompts and says nothing; when `dies` is set it is gone. Others end each prompt at once."""

    def __init__(self, dies: asyncio.Event | None, given: list[str]) -> None:
        self._dies = dies
        self._given = given
        self.generator = self
        self.encoder = self

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        yield Frame()
        if self._dies is not None:
            await self._dies.wait()
            raise ModelServiceDown("gone")
        self._given += [prompt.request_id for prompt in prompts]
        yield Frame(tuple(Delta(prompt.request_id, finish_reason="stop") for prompt in prompts))

    async def abort(self, request_ids: Sequence[str]) -> None:
        """It has other worries."""

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> object:
        raise NotImplementedError

    async def readiness(self) -> Readiness:
        return Readiness("ready")

    async def card(self) -> ModelCard:
        raise NotImplementedError

    async def tokenizer(self) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_prompt_that_was_aborted_is_not_sent_to_another_replica() -> None:
    dies = asyncio.Event()
    given: list[str] = []
    addresses = [Address("http://dying", "dying"), Address("http://well", "well")]

    async def resolve() -> list[Address]:
        return addresses

    replicas = Replicas(
        resolve,
        lambda address: DyingReplica(dies if address.host == "dying" else None, given),  # type: ignore[arg-type,return-value]
        Health(failures=3, probe_seconds=60, resolve_seconds=60),
    )
    async with replicas:
        dying, well = sorted(replicas.all, key=lambda replica: replica.address.host)
        well.tokens = 1_000_000  # so that the other one is chosen first
        generator = ReplicatedGenerator(replicas)
        frames = generator.generate([Prompt("stays", text="a"), Prompt("leaves", text="b")])
        assert await anext(frames) == Frame()
        assert dying.prompts == 2
        await generator.abort(["leaves"])
        dies.set()
        rest = [delta async for frame in frames for delta in frame.deltas]
        assert {delta.request_id: delta.finish_reason for delta in rest} == {"leaves": "error", "stays": "stop"}
        assert given == ["stays"]
        assert dying.prompts == well.prompts == 0
