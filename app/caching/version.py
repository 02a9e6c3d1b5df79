"""Which documents there are, looked up now and then; and since when answers can have been made from all of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.topics import Cached
from contracts.types import CollectionVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """`settled`: a search that begins now finds what this version has, and nothing older."""

    id: str
    settled: bool


@dataclass(frozen=True, slots=True)
class _Read:
    """Never None, as what is kept must not be."""

    version: CollectionVersion | None


class KnownVersions:
    """What `read` says is at most `ttl_seconds` old. `changed` is called when a version is another one than before.

    A version is settled once it has been known for `settle_seconds`: searches may lag behind (Milvus' bounded
    staleness), and so may what else the gateway remembers of a collection.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[CollectionVersion | None]],
        *,
        ttl_seconds: float,
        settle_seconds: float,
        changed: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        async def reading() -> _Read:
            return _Read(await read())

        self._cached = Cached(reading, clock)
        self._ttl = ttl_seconds
        self._settle = settle_seconds
        self._changed = changed
        self._clock = clock
        self._last: CollectionVersion | None = None
        self._since = 0.0
        self._said = ""

    async def current(self) -> KnownVersion | None:
        """None where there is none to keep answers for, which the log says once. Raises PharosError."""
        version = (await self._cached.get(self._ttl)).version
        if version != self._last:
            self._last, self._since = version, self._clock()
            self._changed()
        if version is None:
            self._say("the collection has no version (nothing is ingested yet, or by an older Pharos: ingest it again)")
            return None
        if version.changing:
            self._say("documents are being changed, or a job that changed them was stopped: run it again to its end")
            return None
        self._said = ""
        return KnownVersion(version.id, self._clock() - self._since >= self._settle)

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            log.warning("answers are not cached: %s", why)
