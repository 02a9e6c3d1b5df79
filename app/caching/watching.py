"""Hooks of the caches, like those of app/watching.py."""

from __future__ import annotations

from typing import Literal, Protocol

LookedUp = Literal["exact", "semantic", "miss", "skipped"]
"""How a look-up went. SKIPPED: the request did not want it, or nothing may be kept for what it asks."""
Evicted = Literal["full", "expired", "outdated"]
"""Why an entry went: there was no room, its time was over, the documents changed."""


class CacheWatch(Protocol):
    """Sees what a cache does."""

    def looked_up(self, result: LookedUp) -> None: ...

    def evicted(self, why: Evicted, entries: int) -> None: ...


class Unwatched:
    """Nobody looks."""

    def looked_up(self, result: LookedUp) -> None: ...

    def evicted(self, why: Evicted, entries: int) -> None: ...


UNWATCHED = Unwatched()
