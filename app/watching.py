"""What others may see of a batcher: the hooks of metrics and traces, of which the logic knows no more.

All instants are `time.monotonic()`'s. Hooks are called often, must be quick and must not raise.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

DropReason = Literal["overloaded", "draining", "deadline", "cancelled"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


class BatchWatch(Protocol):
    """Sees what one batcher does."""

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
        """A batch is on its way to the backend."""
        ...

    def item_ended(self, arrived: float, left: float | None) -> None:
        """An item that left its queue at `left`, or never did, has ended now, however it did. Called in the context of
        whoever submitted it, as no other hook is."""
        ...

    def item_dropped(self, reason: DropReason) -> None:
        """An item was refused, or has ended before it left its queue."""
        ...


class Unwatched:
    """Nobody looks."""

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None: ...

    def item_ended(self, arrived: float, left: float | None) -> None: ...

    def item_dropped(self, reason: DropReason) -> None: ...


UNWATCHED = Unwatched()
