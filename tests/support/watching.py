"""A watch that keeps what it sees."""

from __future__ import annotations

from app.token_stream import TokenStream
from app.watching import DropReason


class Seen:
    """Implements `app.token_stream.StreamWatch`. Seconds are those in the queue and in the backend."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []
        self.served = 0
        self.never_left = 0
        self.dropped: list[DropReason] = []
        self.gaps: list[tuple[float | None, int]] = []
        self.left: list[TokenStream] = []

    def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
        self.batches.append((items, oldest_wait_seconds))

    def item_ended(self, arrived: float, left: float | None) -> None:
        if left is None:
            self.never_left += 1
        else:
            assert arrived <= left
            self.served += 1

    def item_dropped(self, reason: DropReason) -> None:
        self.dropped.append(reason)

    def tokens(self, gap_seconds: float | None, tokens: int) -> None:
        self.gaps.append((gap_seconds, tokens))

    def stream_left(self, stream: TokenStream) -> None:
        self.left.append(stream)
