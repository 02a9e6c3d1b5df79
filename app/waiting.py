"""What waits for a batcher, and what may leave together. The rules alone, without an event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The bounds of a batcher. `cost` is whatever the batcher's `cost` function counts (texts, tokens, ...).

    `in_flight` is the number of batches at the same time, for each backend. `queue_seconds` is the longest wait, by the
    measured drain rate, that a new item is let into. `max_wait_seconds` holds back a batch that is not full until its
    oldest item has waited that long; 0, the default, never does.
    """

    batch_items: int
    queue_items: int
    in_flight: int = 1
    batch_cost: float = math.inf
    queue_cost: float = math.inf
    queue_seconds: float = math.inf
    max_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        positive = (self.batch_items, self.queue_items, self.in_flight, self.batch_cost, self.queue_cost)
        if min(positive) <= 0 or self.queue_seconds <= 0 or self.max_wait_seconds < 0:
            raise ValueError(f"every limit of a batcher must be positive: {self}")
        for what, queue, batch in (
            ("items", self.queue_items, self.batch_items),
            ("cost", self.queue_cost, 0 if math.isinf(self.batch_cost) else self.batch_cost),
        ):
            if queue < batch:
                raise ValueError(
                    f"a queue limited to {queue:g} ({what}) can never fill a batch of {batch:g}: "
                    "raise the queue's limit or lower the batch's"
                )


@dataclass(slots=True, eq=False)
class Item(Generic[In, Out]):
    """One value, who waits for its outcome until when, and when it `left` for the backend (`time.monotonic()` instants;
    None: it has not)."""

    value: In
    cost: float
    group: Hashable
    deadline: float
    future: asyncio.Future[Out]
    arrived: float = field(default_factory=time.monotonic)
    left: float | None = None

    def wanted(self, now: float) -> bool:
        """Whether somebody still waits for it."""
        return not self.future.done() and self.deadline > now


class Waiting(Generic[In, Out]):
    """Items by group, oldest first: within a group, and among groups by their heads."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        # A group exists while it has items. Its place in the dict does not matter: heads are compared by arrival.
        self._groups: dict[Hashable, deque[Item[In, Out]]] = {}
        self.items = 0
        self.cost = 0.0

    def add(self, item: Item[In, Out]) -> None:
        self._groups.setdefault(item.group, deque()).append(item)
        self.items += 1
        self.cost += item.cost

    def remove(self, item: Item[In, Out]) -> None:
        """Take one out. No error when it has left already."""
        group = self._groups.get(item.group)
        if group is not None and item in group:
            group.remove(item)
            self._has_left(item, group)

    def take(self, most: int, now: float, *, hold_back: bool) -> list[Item[In, Out]]:
        """At most `most` items of the group that waited longest, within the limits; those that nobody wants any more
        are dropped. With `hold_back`, groups whose time has not come (`max_wait_seconds`) are passed over."""
        for group in list(self._groups.values()):
            # First, so that a head that nobody wants does not decide whose turn it is.
            while group and not group[0].wanted(now):
                self._has_left(group.popleft(), group)
        for group in sorted(self._groups.values(), key=_arrival):
            if not hold_back or self._may_leave(group, now):
                return self._batch(group, most, now)
        return []

    def held_back_until(self) -> float:
        """When the first group that is not full may leave."""
        return min(map(_arrival, self._groups.values()), default=math.inf) + self._limits.max_wait_seconds

    def _may_leave(self, group: deque[Item[In, Out]], now: float) -> bool:
        limits = self._limits
        return (
            now >= group[0].arrived + limits.max_wait_seconds
            or len(group) >= limits.batch_items
            or sum(item.cost for item in group) >= limits.batch_cost
        )

    def _batch(self, group: deque[Item[In, Out]], most: int, now: float) -> list[Item[In, Out]]:
        batch: list[Item[In, Out]] = []
        cost = 0.0
        while group and len(batch) < most:
            item = group[0]
            wanted = item.wanted(now)
            if wanted and batch and cost + item.cost > self._limits.batch_cost:
                break
            group.popleft()
            self._has_left(item, group)
            if wanted:
                batch.append(item)
                cost += item.cost
        return batch

    def _has_left(self, item: Item[In, Out], group: deque[Item[In, Out]]) -> None:
        self.items -= 1
        self.cost = self.cost - item.cost if self.items else 0.0  # 0 and not what rounding has left
        if not group:
            del self._groups[item.group]


def _arrival(group: deque[Item[In, Out]]) -> float:
    return group[0].arrived
