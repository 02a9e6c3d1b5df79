"""Which topics there are: short-lived caches over the store, so that checking a question's topic costs no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from app.errors import UnknownTopic
from contracts.ports import VectorStore
from contracts.types import TopicCount

T = TypeVar("T")

NAMED_IN_ERRORS = 20


class TopicDirectory:
    """What `all` says is at most `ttl_seconds` old; an unknown topic is looked up afresh before it is refused, but at
    most every `refresh_seconds`, so that made-up topics cannot load the store."""

    def __init__(self, store: VectorStore, ttl_seconds: float, refresh_seconds: float = 1.0) -> None:
        self._names = Cached(store.topic_names)
        self._counts = Cached(store.topics)
        self._ttl = ttl_seconds
        self._refresh = refresh_seconds

    async def all(self) -> list[TopicCount]:
        """All topics with their counts, by name."""
        return await self._counts.get(self._ttl)

    async def names(self) -> list[str]:
        """All topics, by name."""
        return await self._names.get(self._ttl)

    async def require(self, topics: Sequence[str]) -> None:
        """Raise UnknownTopic, naming what exists, unless every one of `topics` does."""
        if set(topics) <= set(self._names.latest or ()):
            return
        names = await self._names.get(self._refresh)
        unknown = sorted(set(topics) - set(names))
        if unknown:
            have = ", ".join(names[:NAMED_IN_ERRORS]) if names else "none: nothing is loaded yet, run `make ingest`"
            raise UnknownTopic(f"Unknown topic {', '.join(map(repr, unknown))}. Topics: {have}.")


class Cached(Generic[T]):
    """The last outcome of `read`. Those who wait for a new one share one call and its outcome: when the store hangs,
    nobody waits for the others' turns too."""

    def __init__(self, read: Callable[[], Coroutine[Any, Any, T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._read_at = -float("inf")
        self._reading: asyncio.Future[T] | None = None
        self.latest: T | None = None

    async def get(self, max_age_seconds: float) -> T:
        """The outcome of a call that is at most this old. Raises what `read` raises."""
        if self.latest is not None and self._clock() - self._read_at < max_age_seconds:
            return self.latest
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._done)
        return await asyncio.shield(self._reading)

    def _done(self, reading: asyncio.Future[T]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is None:
            self.latest = reading.result()
            self._read_at = self._clock()
