"""Prompts to token streams: prompts that arrive together travel as one call whose frames are told apart again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from types import TracebackType
from typing import Self

from app.batching import Batcher, BatchLimits, Served
from app.errors import InvalidRequest, ModelServiceFailed, PharosError, PromptTooLong
from contracts.ports import Generator
from contracts.types import Delta, Frame, Prompt, PromptProblem

SETTLE_SECONDS = 2.0


class TokenStream:
    """The deltas of one prompt. Deltas its reader has not taken yet are merged, so a slow reader costs no memory."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.ended = False
        self.left = False
        self._pending: Delta | None = None
        self._error: PharosError | None = None
        self._ready = asyncio.Event()

    def put(self, delta: Delta) -> None:
        """Called by the pump of the batch."""
        self._pending = delta if self._pending is None else self._pending.then(delta)
        self.ended = self.ended or delta.finish_reason is not None
        self._ready.set()

    def fail(self, error: PharosError) -> None:
        """End the stream with `error`, after what is still pending. Ignored once the stream has ended."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._ready.set()

    async def read(self) -> Delta:
        """What came since the last read, at least one delta. Not to be called after one with a finish reason.

        Raises the error that ended the stream.
        """
        await self._ready.wait()
        self._ready.clear()
        delta, self._pending = self._pending, None
        if delta is None:
            assert self._error is not None, "read() after the end"
            raise self._error
        if self._error is not None:
            self._ready.set()
        if delta.error is not None:
            raise error_of(delta.error)
        return delta


class GenerationPool:
    """Submits prompts in batches and relays each batch's frames to the streams of its prompts.

    A stream that is left early is aborted at the model service; aborts travel in batches too, so that a burst of
    leaving clients is a few calls. Leaving the context ends the running streams.
    """

    def __init__(
        self,
        generator: Generator,
        limits: BatchLimits,
        *,
        on_batch: Callable[[str, int, float], None] = lambda _kind, _items, _wait: None,
    ) -> None:
        self._generator = generator
        self._submitting: Batcher[Prompt, TokenStream] = Batcher(
            self._submit,
            limits,
            on_batch=lambda items, wait: on_batch("generate", items, wait),
            # The caller went while its batch was being submitted: the engine has the prompt, so it must be told.
            discard=self.leave,
        )
        self._aborting: Batcher[str, None] = Batcher(
            self._abort, BatchLimits(batch_items=1024, queue_items=100_000, in_flight=2)
        )
        self._tasks: set[asyncio.Task[object]] = set()
        self._exit = AsyncExitStack()

    async def open(self, prompt: Prompt) -> Served[TokenStream]:
        """Hand `prompt` over; returns once the engine has accepted it. Close the stream with `leave`.

        Raises PromptTooLong or InvalidRequest when the engine refuses the prompt.
        """
        return await self._submitting.submit(prompt)

    def leave(self, stream: TokenStream) -> None:
        """Stop the work behind `stream` unless it has ended. Returns at once; the abort goes its own way."""
        if not stream.ended:
            stream.ended = stream.left = True
            self._background(self._aborting.submit(stream.request_id))

    async def _submit(self, prompts: Sequence[Prompt]) -> Sequence[TokenStream | BaseException]:
        frames = self._generator.generate(prompts)
        streams = {prompt.request_id: TokenStream(prompt.request_id) for prompt in prompts}
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
            _deal(first, streams)
            async with aclosing(frames):
                async for frame in frames:
                    _deal(frame, streams)
                    if all(stream.ended for stream in streams.values()) and any(s.left for s in streams.values()):
                        break  # nobody reads on: closing the connection frees what still runs
        except PharosError as exc:
            failure = exc
        finally:
            for stream in streams.values():
                stream.fail(failure)

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
        await self._exit.enter_async_context(self._submitting)
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


def _deal(frame: Frame, streams: dict[str, TokenStream]) -> None:
    for delta in frame.deltas:
        stream = streams.get(delta.request_id)
        if stream is not None:
            stream.put(delta)


def error_of(problem: PromptProblem) -> PharosError:
    """The gateway's error for why the model service refused or failed one prompt."""
    if problem.status == 413:
        return PromptTooLong(problem.detail)
    if 400 <= problem.status < 500:
        return InvalidRequest(problem.detail)
    return ModelServiceFailed(problem.detail)
