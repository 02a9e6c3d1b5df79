"""What others may see of batchers and token streams: the hooks of metrics and traces, of which the logic knows no more.

All instants are `time.monotonic()`'s. Hooks are called often, must be quick and must not raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # the model service has batchers, and no such streams
    from app.token_stream import TokenStream

DropReason = Literal["overloaded", "draining", "deadline", "cancelled"]


class BatchWatch(Protocol):
    """Sees what one batcher does."""

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
        """A batch is on its way to the backend."""
        ...

    def item_served(self, arrived: float, left: float) -> None:
        """An item that left its queue at `left` has ended now, however it did. Called in the context of whoever
        submitted it, as no other hook is."""
        ...

    def item_dropped(self, reason: DropReason) -> None:
        """An item was refused, or has ended before it left its queue."""
        ...


class StreamWatch(BatchWatch, Protocol):
    """Sees the submission of prompts, and then their tokens."""

    def tokens(self, gap_seconds: float | None, tokens: int) -> None:
        """Tokens of one stream have come together, `gap_seconds` after those before them; None: they are its first."""
        ...

    def stream_left(self, stream: TokenStream) -> None:
        """Its reader is done with it. Called in the reader's context."""
        ...


class Unwatched:
    """Nobody looks."""

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None: ...

    def item_served(self, arrived: float, left: float) -> None: ...

    def item_dropped(self, reason: DropReason) -> None: ...

    def tokens(self, gap_seconds: float | None, tokens: int) -> None: ...

    def stream_left(self, stream: TokenStream) -> None: ...


UNWATCHED = Unwatched()
