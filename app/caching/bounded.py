"""A map that is bounded in entries, bytes and age, and forgets first what was used least recently."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import TTLCache

from app.caching.watching import UNWATCHED, CacheWatch, Evicted

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a cache may hold, of all entries together, and how old one may become, in seconds."""

    entries: int
    bytes: int
    seconds: float


class Bounded(Generic[K, V]):
    """`gone` hears of the key of each entry that leaves, however it does.

    `entries` and `bytes` are as of the last call, so that another thread may read them.
    """

    def __init__(
        self,
        bounds: Bounds,
        watch: CacheWatch = UNWATCHED,
        gone: Callable[[K], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = bounds
        self._watch = watch
        self._gone = gone
        self._kept: _Reporting[K, V] = _Reporting(bounds, self._left, clock)
        self.entries = 0
        self.bytes = 0

    def get(self, key: K) -> V | None:
        """The value, which counts as used; None where there is none."""
        found = self._kept.get(key)
        return None if found is None else found.value

    def put(self, key: K, value: V, size: int) -> bool:
        """Keep a value of `size` bytes; False where it is larger than all may be together."""
        if size > self._bounds.bytes or self._bounds.entries < 1:
            return False
        while len(self._kept) >= self._bounds.entries and key not in self._kept:
            self._kept.popitem()
        self._kept[key] = _Sized(value, size)
        self._measure()
        return True

    def expire(self) -> None:
        """Forget what is too old, which otherwise goes when something is put in."""
        self._kept.expire()
        self._measure()

    def clear(self, why: Evicted) -> None:
        """Forget all."""
        keys = list(self._kept)
        self._kept.clear()
        self._left(keys, why)
        self._measure()

    def _left(self, keys: Iterable[K], why: Evicted) -> None:
        entries = 0
        for key in keys:
            self._gone(key)
            entries += 1
        if entries:
            self._watch.evicted(why, entries)

    def _measure(self) -> None:
        self.entries = len(self._kept)
        self.bytes = int(self._kept.currsize)


@dataclass(frozen=True, slots=True)
class _Sized(Generic[V]):
    value: V
    size: int


class _Reporting(TTLCache[K, _Sized[V]]):
    """cachetools' cache, which says what it drops."""

    def __init__(
        self, bounds: Bounds, left: Callable[[Iterable[K], Evicted], None], clock: Callable[[], float]
    ) -> None:
        super().__init__(bounds.bytes, bounds.seconds, timer=clock, getsizeof=lambda kept: kept.size)
        self._left = left

    def expire(self, time: float | None = None) -> list[tuple[K, _Sized[V]]]:
        expired = list(super().expire(time))
        self._left([key for key, _ in expired], "expired")
        return expired

    def popitem(self) -> tuple[K, _Sized[V]]:
        key, kept = super().popitem()
        self._left([key], "full")
        return key, kept
