"""Prompts to token streams: prompts that arrive together travel as one call whose frames are told apart again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from app.batching import Batcher, BatchLimits, Served
from app.errors import (
    DeadlineExceeded,
    ModelServiceFailed,
    PharosError,
)
from app.quota import Reservation
from app.replicated import outstanding_tokens
from app.terms import UNLIMITED, Terms
from app.token_stream import StreamWatch, TokenStream, UnwatchedStreams, error_of
from contracts.ports import Generator
from contracts.telemetry import TRACEPARENT_HEADER
from contracts.types import Frame, Prompt
from observability.trace_context import current_headers

SETTLE_SECONDS = 2.0

UNWATCHED = UnwatchedStreams()


@dataclass(frozen=True, slots=True)
class _Submission:
    prompt: Prompt
    deadline: float | None
    reservation: Reservation | None


class GenerationPool:
    """Submits prompts in batches and relays each batch's frames to the streams of its prompts.

    A prompt is submitted once the backends have `room` for it, so that waiting happens here, where it is bounded and
    where a caller that leaves or runs out of time costs the GPU nothing. A stream that is left early is aborted at the
    model service; aborts travel in batches too, so that a burst of leaving clients is a few calls. Leaving the context
    ends the running streams.
    """

    def __init__(
        self,
        generator: Generator,
        limits: BatchLimits,
        *,
        backends: Callable[[], int] = lambda: 1,
        room: Callable[[], float] = lambda: math.inf,
        watch: StreamWatch = UNWATCHED,
    ) -> None:
        self._generator = generator
        self._watch = watch
        self.submitting: Batcher[_Submission, TokenStream] = Batcher(
            self._submit,
            limits,
            cost=lambda submission: outstanding_tokens(submission.prompt),
            backends=backends,
            room=room,
            watch=watch,
            # The caller went while its batch was being submitted: the engine has the prompt, so it must be told.
            discard=self._end,
        )
        self._aborting: Batcher[str, None] = Batcher(
            self._abort, BatchLimits(batch_items=1024, queue_items=100_000, in_flight=2)
        )
        self._tasks: set[asyncio.Task[object]] = set()
        self._exit = AsyncExitStack()

    async def open(self, prompt: Prompt, terms: Terms = UNLIMITED) -> Served[TokenStream]:
        """Hand `prompt` over; returns once the engine has accepted it. Close the stream with `leave`.

        Raises PharosError: QuotaExceeded, Overloaded, DeadlineExceeded, PromptTooLong or InvalidRequest when the engine
        refuses the prompt, ModelServiceDown, ModelServiceFailed.
        """
        reservation = None if terms.quota is None else terms.quota.reserve_tokens(outstanding_tokens(prompt))
        try:
            # Each prompt of a batch says whose it is: the call that carries it belongs to several requests.
            told = msgspec.structs.replace(prompt, traceparent=current_headers().get(TRACEPARENT_HEADER))
            submission = _Submission(told, terms.deadline, reservation)
            served = await self.submitting.submit(submission, deadline=terms.deadline)
        except BaseException:
            if reservation is not None:
                reservation.settle(0)
            raise
        stream = served.value
        if terms.deadline is not None:
            left = terms.deadline - time.monotonic()
            stream.expiry = asyncio.get_running_loop().call_later(left, self._expire, stream)
        return served

    def leave(self, stream: TokenStream) -> None:
        """Stop the work behind `stream` unless it has ended. Returns at once; the abort goes its own way."""
        self._watch.stream_left(stream)
        self._end(stream)

    def _end(self, stream: TokenStream) -> None:
        if stream.expiry is not None:
            stream.expiry.cancel()
            stream.expiry = None
        if not stream.ended:
            stream.ended = True
            self._stop(stream)

    def wake(self) -> None:
        """The backends have room again, or others are there."""
        self.submitting.wake()

    def _expire(self, stream: TokenStream) -> None:
        if not stream.ended:
            stream.fail(DeadlineExceeded("The request's time ran out before the answer was complete."))
            self._stop(stream)

    def _stop(self, stream: TokenStream) -> None:
        stream.left = True
        self._background(self._aborting.submit(stream.request_id))

    async def _submit(self, submissions: Sequence[_Submission]) -> Sequence[TokenStream | BaseException]:
        now = time.monotonic()
        frames = self._generator.generate([_with_timeout(submission, now) for submission in submissions])
        streams = {s.prompt.request_id: TokenStream(s.prompt.request_id, s.reservation) for s in submissions}
        try:
            accepted = await anext(frames)
        except StopAsyncIteration:
            raise ModelServiceFailed("The model service ended the stream before its first frame; try again.") from None
        refused = {delta.request_id: error_of(delta.error) for delta in accepted.deltas if delta.error is not None}
        running = {request_id: stream for request_id, stream in streams.items() if request_id not in refused}
        self._background(self._relay(frames, accepted, running))
        return [refused.get(request_id) or stream for request_id, stream in streams.items()]

    async def _relay(self, frames: AsyncGenerator[Frame, None], first: Frame, streams: dict[str, TokenStream]) -> None:
        failure: PharosError = ModelServiceFailed(
            "The model service ended the stream before the answer did; try again."
        )
        try:
            self._deal(first, streams)
            async with aclosing(frames):
                async for frame in frames:
                    if self._deal(frame, streams) and _nobody_reads_on(streams):
                        break  # closing the connection frees what still runs
        except PharosError as exc:
            failure = exc
        finally:
            for stream in streams.values():
                stream.fail(failure)
                if stream.reservation is not None:
                    stream.reservation.settle(0)  # unless its usage has been seen
            self.wake()

    def _deal(self, frame: Frame, streams: dict[str, TokenStream]) -> bool:
        """Give each stream its delta. Whether one of them has ended with it."""
        ended = False
        now = time.monotonic()
        seen = self._watch.tokens
        for delta in frame.deltas:  # once per token
            stream = streams.get(delta.request_id)
            if stream is not None:
                if delta.tokens and not stream.ended:
                    seen(None if stream.first_token is None else now - stream.latest, delta.tokens)
                stream.put(delta, now)
                if delta.finish_reason is not None:
                    ended = True
                    if stream.reservation is not None and delta.usage is not None:
                        stream.reservation.settle(delta.usage.prompt_tokens + delta.usage.completion_tokens)
        if ended:
            self.wake()
        return ended

    async def _abort(self, request_ids: Sequence[str]) -> Sequence[None]:
        with suppress(PharosError):  # a model service that is down has freed its slots already
            await self._generator.abort(request_ids)
        return [None] * len(request_ids)

    def _background(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        # Left in reverse: no new prompts, then the running streams, then their aborts.
        await self._exit.enter_async_context(self._aborting)
        self._exit.push_async_callback(self._settle)
        await self._exit.enter_async_context(self.submitting)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _settle(self) -> None:
        """Give what runs some time, then end it. (The server has waited for the clients already.)"""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SETTLE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _nobody_reads_on(streams: dict[str, TokenStream]) -> bool:
    left = False
    for stream in streams.values():
        if not stream.ended:
            return False
        left = left or stream.left
    return left


def _with_timeout(submission: _Submission, now: float) -> Prompt:
    if submission.deadline is None:
        return submission.prompt
    return msgspec.structs.replace(submission.prompt, timeout_seconds=submission.deadline - now)
