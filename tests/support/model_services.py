"""Model services in this process, which do what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.errors import PharosError
from app.replicas import Address, Health, ModelClient, Replica, Replicas
from contracts.types import Delta, Encoding, Frame, ModelCard, Pair, Prompt, Readiness, Scores, Usage

Say = Frame | PharosError
"""What comes next on a stream; an error ends it."""


@dataclass(eq=False)
class FakeService:
    """Implements `app.replicas.ModelClient`, `Encoder`, `Reranker` and `Generator`.

    A stream says what is put into `script`, and then, unless it was an error, ends each of its prompts; with `waits`
    it goes on only when `go_on` is set. `fails` is what every other call raises.
    """

    name: str = ""
    status: Readiness = field(default_factory=lambda: Readiness("ready"))
    silent: PharosError | None = None
    fails: PharosError | None = None
    script: list[Say] = field(default_factory=list)
    waits: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    probed: asyncio.Event = field(default_factory=asyncio.Event)
    given: list[list[Prompt]] = field(default_factory=list)
    encoded: list[tuple[list[str], float | None]] = field(default_factory=list)
    reranked: list[tuple[list[Pair], float | None]] = field(default_factory=list)
    aborted: list[list[str]] = field(default_factory=list)
    streams: int = 0
    closed: bool = False

    @property
    def encoder(self) -> FakeService:
        return self

    @property
    def reranker(self) -> FakeService:
        return self

    @property
    def generator(self) -> FakeService:
        return self

    async def readiness(self) -> Readiness:
        self.probed.set()
        if self.silent is not None:
            raise self.silent
        return self.status

    async def probe(self) -> None:
        """Returns once it has been asked again and the answer has been acted upon."""
        self.probed.clear()
        await self.probed.wait()
        for _ in range(5):
            await asyncio.sleep(0)

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        self.encoded.append((list(texts), timeout_seconds))
        await self._turn()
        if self.fails is not None:
            raise self.fails
        return Encoding(np.ones((len(texts), 2), np.float32), (1,) * len(texts))

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        self.reranked.append((list(pairs), timeout_seconds))
        await self._turn()
        if self.fails is not None:
            raise self.fails
        return Scores(np.full(len(pairs), 0.5, np.float32), (1,) * len(pairs))

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        self.given.append(list(prompts))
        self.streams += 1
        try:
            await self._turn()
            if self.fails is not None:
                raise self.fails
            said, self.script = self.script, []
            left = {prompt.request_id for prompt in prompts}
            for say in said:
                if isinstance(say, PharosError):
                    raise say
                left -= {delta.request_id for delta in say.deltas if delta.finish_reason is not None}
                yield say
            if not said:
                yield Frame()
            for request_id in sorted(left):
                await self._turn()
                yield Frame((ended(request_id),))
        finally:
            self.streams -= 1

    async def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted.append(list(request_ids))
        if self.fails is not None:
            raise self.fails

    async def _turn(self) -> None:
        self.began.set()
        if self.waits:
            await self.go_on.wait()
        else:
            await asyncio.sleep(0)

    async def card(self) -> ModelCard:
        if self.fails is not None:
            raise self.fails
        return ModelCard("encoder", 2, 256, self.name, 4096, "fake")

    async def tokenizer(self) -> str:
        if self.fails is not None:
            raise self.fails
        return "{}"

    async def close(self) -> None:
        self.closed = True


def token(request_id: str) -> Delta:
    return Delta(request_id, "a", 1)


def ended(request_id: str) -> Delta:
    return Delta(request_id, "z", 1, "stop", Usage(1, 2))


def frame(*deltas: Delta) -> Frame:
    return Frame(deltas)


BUSY = 1_000_000
"""Work of others, outstanding at a replica that is not to be chosen first."""


class Fleet:
    """Replicas of fake services. `addresses` may be changed: they are resolved afresh every `resolve_seconds`."""

    def __init__(self, names: Iterable[str], **health: float) -> None:
        self.addresses = list(names)
        self.services: dict[str, FakeService] = {name: FakeService(name) for name in self.addresses}
        self.resolved = asyncio.Event()
        self.unresolvable = False
        settings = {"failures": 3, "probe_seconds": 60, "resolve_seconds": 60, **health}
        self.replicas = Replicas(self._resolve, self._connect, Health(**settings))  # type: ignore[arg-type]

    async def _resolve(self) -> list[Address]:
        self.resolved.set()
        if self.unresolvable:
            raise OSError("no name server")
        return [Address(f"http://{name}", name) for name in self.addresses]

    def _connect(self, address: Address) -> ModelClient:
        return self.services.setdefault(address.host, FakeService(address.host))

    async def resolve(self) -> None:
        """Returns once the names have been resolved again and the outcome has been acted upon."""
        self.resolved.clear()
        await self.resolved.wait()
        for _ in range(5):
            await asyncio.sleep(0)

    def __getitem__(self, name: str) -> Replica:
        return next(replica for replica in self.replicas.all if replica.address.host == name)

    @property
    def outstanding(self) -> list[tuple[int, int, int]]:
        """Prompts, tokens and texts at each replica, without those of `first`."""
        return [(each.prompts, each.tokens % BUSY, each.texts % BUSY) for each in self.replicas.all]

    def first(self, name: str) -> FakeService:
        """From now on the others look busier, so that this one is chosen while it is well. Returns its service."""
        for replica in self.replicas.all:
            if replica.address.host != name:
                replica.tokens += BUSY
                replica.texts += BUSY
        return self.services[name]
