"""Which topics there are: a short-lived cache over the store, so that checking a question's topic costs no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from app.errors import UnknownTopic
from contracts.ports import VectorStore
from contracts.types import TopicCount


class TopicDirectory:
    """`all()` is at most `ttl_seconds` old; an unknown topic is looked up afresh before it is refused."""

    def __init__(self, store: VectorStore, ttl_seconds: float, refresh_seconds: float = 1.0) -> None:
        self._store = store
        self._ttl = ttl_seconds
        self._refresh = refresh_seconds
        self._known: list[TopicCount] = []
        self._read_at = -float("inf")
        self._reading: asyncio.Future[list[TopicCount]] | None = None

    async def all(self) -> list[TopicCount]:
        """All topics with their counts, by name."""
        return await self._read(self._ttl)

    async def require(self, topics: Sequence[str]) -> None:
        """Raise UnknownTopic, naming what exists, unless every one of `topics` does."""
        if set(topics) <= {known.topic for known in self._known}:
            return
        # Perhaps just ingested. At most once a second, so that made-up topics cannot load the store.
        names = [known.topic for known in await self._read(self._refresh)]
        unknown = sorted(set(topics) - set(names))
        if unknown:
            have = ", ".join(names[:20]) if names else "none: nothing is loaded yet, run `make ingest`"
            raise UnknownTopic(f"Unknown topic {', '.join(map(repr, unknown))}. Topics: {have}.")

    async def _read(self, max_age_seconds: float) -> list[TopicCount]:
        if time.monotonic() - self._read_at > max_age_seconds:
            # One call for all who wait, and one outcome: when Milvus hangs, nobody waits for the others' turns too.
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._store.topics())
                self._reading.add_done_callback(self._read_done)
            return await asyncio.shield(self._reading)
        return self._known

    def _read_done(self, reading: asyncio.Future[list[TopicCount]]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is None:
            self._known = reading.result()
            self._read_at = time.monotonic()
