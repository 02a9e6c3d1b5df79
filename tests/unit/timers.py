"""Time that passes when a test says so."""

from __future__ import annotations


class Timers:
    """The clock of a loop's timers. It stands still, so that nothing runs out however slow the machine is, until
    `pass_by` moves it on."""

    def __init__(self, now: float) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def pass_by(self, seconds: float) -> None:
        """From the next turn of the loop on, what was set for within these seconds is due."""
        self._now += seconds
