"""The tokens of one answer on their way from the model service to whoever asked."""

from __future__ import annotations

import asyncio
from typing import Protocol

from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    Overloaded,
    PharosError,
    PromptTooLong,
)
from app.quota import Reservation
from app.watching import BatchWatch, Unwatched
from contracts.types import Delta, FinishReason, PromptProblem, Usage


class TokenStream:
    """The deltas of one prompt. Deltas its reader has not taken yet are merged, so a slow reader costs no memory.

    `first_token` and `latest` are when its first and its latest tokens came, `time.monotonic()` instants.
    """

    def __init__(self, request_id: str, reservation: Reservation | None = None) -> None:
        self.request_id = request_id
        self.reservation = reservation
        self.ended = False
        self.left = False
        self.expiry: asyncio.TimerHandle | None = None
        self.tokens = 0
        self.first_token: float | None = None
        self.latest = 0.0
        self.usage: Usage | None = None
        self.finish_reason: FinishReason | None = None
        self._loop = asyncio.get_running_loop()
        self._pending: Delta | None = None
        self._error: PharosError | None = None
        # A bare future: once per token an asyncio.Event would cost twice as much.
        self._reader: asyncio.Future[None] | None = None

    def put(self, delta: Delta, now: float) -> None:
        """Called by the pump of the batch. Ignored once the stream has ended."""
        if self.ended:
            return
        if delta.tokens:
            self.tokens += delta.tokens
            self.latest = now
            if self.first_token is None:
                self.first_token = now
        self._pending = delta if self._pending is None else self._pending.then(delta)
        if delta.finish_reason is not None:
            self.ended = True
            self.finish_reason = delta.finish_reason
            self.usage = delta.usage
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def first_token_after(self, arrived: float) -> float | None:
        """Seconds from `arrived` to the first token; None: there was none."""
        return None if self.first_token is None else self.first_token - arrived

    def fail(self, error: PharosError) -> None:
        """End the stream with `error`, after what is still pending. Ignored once the stream has ended."""
        if not self.ended:
            self.ended = True
            self._error = error
            if self._reader is not None and not self._reader.done():
                self._reader.set_result(None)

    async def read(self) -> Delta:
        """What came since the last read, at least one delta. Not to be called after one with a finish reason.

        Raises the error that ended the stream.
        """
        if self._pending is None and self._error is None:
            self._reader = self._loop.create_future()
            await self._reader
        delta, self._pending = self._pending, None
        if delta is None:
            assert self._error is not None, "read() after the end"
            raise self._error
        if delta.error is not None:
            self._error = error_of(delta.error)
            if not delta.tokens:
                raise self._error
            # What came just before the error is the reader's; the next read raises.
            return Delta(delta.request_id, delta.text, delta.tokens)
        return delta


class StreamWatch(BatchWatch, Protocol):
    """Sees the submission of prompts, and then their tokens: hooks like those of `app.watching`."""

    def tokens(self, gap_seconds: float | None, tokens: int) -> None:
        """Tokens of one stream have come together, `gap_seconds` after those before them; None: they are its first."""
        ...

    def stream_left(self, stream: TokenStream) -> None:
        """Its reader is done with it. Called in the reader's context."""
        ...


class UnwatchedStreams(Unwatched):
    """Nobody looks."""

    def tokens(self, gap_seconds: float | None, tokens: int) -> None: ...

    def stream_left(self, stream: TokenStream) -> None: ...


def error_of(problem: PromptProblem) -> PharosError:
    """The gateway's error for why the model service refused or failed one prompt, or was lost with it."""
    if problem.code == ModelServiceDown.code:
        return ModelServiceDown(problem.detail)
    if problem.status == 413:
        return PromptTooLong(problem.detail)
    if problem.status == 504:
        return DeadlineExceeded(problem.detail)
    if problem.status == 503:
        return Overloaded(problem.detail)
    if 400 <= problem.status < 500:
        return InvalidRequest(problem.detail)
    return ModelServiceFailed(problem.detail)
