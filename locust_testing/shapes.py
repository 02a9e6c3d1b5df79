"""How many users there are when: four shapes of load, each with an end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

STEPS = 5
RAMP_SHARE = 0.1
"""Of the time, for the users to arrive in."""
QUIET_SHARE = 0.2
"""Of the users, who are there before and after a spike."""
SPIKE = (0.4, 0.6)
"""When a spike begins and ends, as shares of the time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`users(share of the time, most users)` for shares from 0 to below 1; `seconds`: how long, if nobody says."""

    about: str
    seconds: float
    users: Callable[[float, int], int]

    def at(self, elapsed_seconds: float, most_users: int, seconds: float) -> int | None:
        """Users at this time, at least one; None when it is over."""
        if elapsed_seconds >= seconds:
            return None
        return max(1, self.users(elapsed_seconds / seconds, most_users))


def _steady(share: float, most: int) -> int:
    return math.ceil(most * min(1.0, share / RAMP_SHARE))


def _step(share: float, most: int) -> int:
    return math.ceil(most * (int(share * STEPS) + 1) / STEPS)


def _spike(share: float, most: int) -> int:
    return most if SPIKE[0] <= share < SPIKE[1] else math.ceil(most * QUIET_SHARE)


SHAPES = {
    "steady": Shape("all users after a tenth of the time, until the end", 60, _steady),
    "step": Shape(f"{STEPS} equal steps up to all users: where does it bend?", 150, _step),
    "spike": Shape("a fifth of the users, all of them for the middle fifth of the time, a fifth again", 100, _spike),
    "soak": Shape("as steady, for half an hour: does anything grow?", 1800, _steady),
}
