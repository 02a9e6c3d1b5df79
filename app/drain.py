"""How fast a queue drains, measured: what `Retry-After` and early refusals are computed from."""

from __future__ import annotations

HALF_LIFE_SECONDS = 5.0
"""What was measured that long ago counts half: long enough to see several batches, short enough to follow the load."""


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
        fade = 0.5 ** (elapsed / HALF_LIFE_SECONDS)
        self._cost = self._cost * fade + cost
        self._seconds = self._seconds * fade + elapsed

    def idle(self) -> None:
        """Nothing waits any more."""
        self._since = None

    def seconds_for(self, cost: float) -> float | None:
        """How long `cost` takes to drain; None while nothing has been measured."""
        if not cost:
            return 0.0
        return cost * self._seconds / self._cost if self._cost else None
