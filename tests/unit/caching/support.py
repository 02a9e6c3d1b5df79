"""What the tests of the caches have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.batching import Served
from app.caching.bounded import Bounds
from app.caching.watching import Evicted, LookedUp
from app_llm.simulated import HashEncoder
from contracts.types import Encoding, ModelCard

CARD = ModelCard("hash", 64, 256, "simulated", 4096, "simulated")
ROOMY = Bounds(entries=100, bytes=10_000_000, seconds=3600)


class Seen:
    """A `CacheWatch` that counts."""

    def __init__(self) -> None:
        self.looked: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def looked_up(self, result: LookedUp) -> None:
        self.looked[result] += 1

    def evicted(self, why: Evicted, entries: int) -> None:
        self.left[why] += entries


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Encoder:
    """The hash encoder as what a retriever asks, which remembers what it was asked for; each call takes "2 s", of which
    it waited one."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self._hash = HashEncoder(64)

    async def served(self, texts: Sequence[str], *, deadline: float | None = None) -> Served[Encoding]:  # noqa: ARG002
        self.calls.append(list(texts))
        return Served(await self._hash.encode(texts), 1.0, 1.0)
