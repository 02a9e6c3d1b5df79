"""How fast a queue drains, measured: what `Retry-After` and early refusals are computed from."""

from __future__ import annotations

import math

HALF_LIFE_SECONDS = 5.0
"""What was measured so much blocked time ago counts half: long enough to see several batches, short enough to follow
the load."""

_MEAN_LIFE_SECONDS = HALF_LIFE_SECONDS / math.log(2)


class DrainRate:
    """Cost per second that leaves a queue while it has to wait, as an exponentially weighted mean.

    Only blocked time counts: what passes through an idle backend says nothing about how fast a busy one is.
    Instants are `time.monotonic()`.
    """

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    def blocked(self, now: float) -> None:
        """Something waits and cannot leave. Called again and again, the first time counts."""
        if self._since is None:
            self._since = now

    def left(self, cost: float, now: float) -> None:
        """`cost` has left the queue."""
        if self._since is None:
            return
        elapsed = now - self._since
        self._since = now
        fade = math.exp(-elapsed / _MEAN_LIFE_SECONDS)
        # A long wait fades within itself, so that one stall does not outweigh all that follows it.
        weight = -math.expm1(-elapsed / _MEAN_LIFE_SECONDS) * _MEAN_LIFE_SECONDS / elapsed if elapsed else 1.0
        self._cost = self._cost * fade + cost * weight
        self._seconds = self._seconds * fade + elapsed * weight

    def idle(self) -> None:
        """Nothing waits any more."""
        self._since = None

    def seconds_for(self, cost: float) -> float | None:
        """How long `cost` takes to drain; None while nothing has been measured."""
        if not cost:
            return 0.0
        return cost * self._seconds / self._cost if self._cost else None


class ItemsAndCost:
    """The drain rates of a queue whose items differ in cost, measured in both.

    The shorter of the two waits counts, since a refusal cannot be taken back: where slots are what is short, small
    items that have left make the cost seem to drain slowly, and a large one would be refused that has to wait for only
    one of them.
    """

    def __init__(self) -> None:
        self._items = DrainRate()
        self._cost = DrainRate()

    def blocked(self, now: float) -> None:
        """As `DrainRate.blocked`."""
        self._items.blocked(now)
        self._cost.blocked(now)

    def left(self, items: int, cost: float, now: float) -> None:
        """`items`, of `cost` together, have left the queue."""
        self._items.left(items, now)
        self._cost.left(cost, now)

    def idle(self) -> None:
        """Nothing waits any more."""
        self._items.idle()
        self._cost.idle()

    def seconds_for(self, items: int, cost: float) -> float | None:
        """How long they take to drain; None while nothing has been measured."""
        by_items, by_cost = self._items.seconds_for(items), self._cost.seconds_for(cost)
        return None if by_items is None or by_cost is None else min(by_items, by_cost)
