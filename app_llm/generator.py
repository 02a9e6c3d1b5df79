"""The `Generator` port over any engine: one stream of frames for a batch of prompts.

An engine (vLLM in vllm_engine.py, a simulation in simulated.py) runs single prompts; `BatchedGenerator` runs a batch of
them side by side and merges what they make into frames.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from app.drain import DrainRate
from app.errors import Overloaded
from app_llm.errors import PromptRefused
from contracts.ports import Generator
from contracts.types import Delta, FinishReason, Frame, Prompt, PromptProblem, Usage
from observability.trace_context import logged_within, span_context

log = logging.getLogger(__name__)

_LATE = PromptProblem(504, "deadline_exceeded", "The request's time ran out before the answer was complete.")
_ENGINE_FAILED = PromptProblem(500, "engine_failed", "The engine failed on this prompt; its log says why.")


@dataclass(frozen=True, slots=True)
class Piece:
    """What an engine made since its last piece. The last piece has a finish reason."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A prompt that can run. Nothing happens before `pieces` is iterated; closing it frees the engine's slot."""

    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]


class Engine(Protocol):
    """Runs one prompt."""

    at_once: int
    """Prompts it runs at the same time; more of them wait inside it."""

    async def accept(self, prompt: Prompt) -> Accepted:
        """Tokenise and check. Raises PromptRefused."""
        ...


class _Collector:
    """Deltas not sent yet, merged per prompt, so that a slow reader costs no memory and a hundred prompts one write."""

    def __init__(self) -> None:
        self._pending: dict[str, Delta] = {}
        self._ready = asyncio.Event()

    def put(self, delta: Delta) -> None:
        earlier = self._pending.get(delta.request_id)
        self._pending[delta.request_id] = delta if earlier is None else earlier.then(delta)
        self._ready.set()

    async def take(self) -> Frame:
        await self._ready.wait()
        self._ready.clear()
        frame = Frame(tuple(self._pending.values()))
        self._pending.clear()
        return frame


class HoldingGenerator(Generator, Protocol):
    """A `Generator` that knows how many prompts it holds: `BatchedGenerator`, or a wrapper around it."""

    @property
    def held(self) -> int: ...

    @property
    def at_once(self) -> int: ...


class WrappedGenerator:
    """What a wrapper around a `HoldingGenerator` hands on as it is."""

    def __init__(self, generator: HoldingGenerator) -> None:
        self._generator = generator

    @property
    def held(self) -> int:
        """Prompts accepted and not ended."""
        return self._generator.held

    @property
    def at_once(self) -> int:
        """Prompts the engine runs at the same time."""
        return self._generator.at_once

    async def abort(self, request_ids: Sequence[str]) -> None:
        """As the port says."""
        await self._generator.abort(request_ids)


class BatchedGenerator:
    """Implements `HoldingGenerator`. It holds at most `prompts_max` prompts; beyond that it is Overloaded.

    A prompt that must wait for the engine, by the rate at which prompts have lately ended, longer than it has time, is
    refused before it gets there.
    """

    def __init__(self, engine: Engine, prompts_max: int) -> None:
        self._engine = engine
        self._prompts_max = prompts_max
        # Two gateways may use the same id, so an id names a set of tasks.
        self._running: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._held = 0
        self._drain = DrainRate()

    @property
    def held(self) -> int:
        """Prompts accepted and not ended."""
        return self._held

    @property
    def at_once(self) -> int:
        """Prompts the engine runs at the same time."""
        return self._engine.at_once

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As the port says. Raises Overloaded before anything has started."""
        if self._held + len(prompts) > self._prompts_max:
            raise Overloaded(f"{self._held} prompts are running or waiting; try again in a moment.")
        tasks: list[asyncio.Task[None]] = []
        self._held += len(prompts)
        try:
            outcomes = await asyncio.gather(*(self._accept(prompt) for prompt in prompts))
        except BaseException:
            self._held -= len(prompts)
            raise
        try:
            collector = _Collector()
            refusals: list[Delta] = []
            for prompt, outcome in zip(prompts, outcomes, strict=True):
                if isinstance(outcome, PromptProblem):
                    self._held -= 1
                    refusals.append(Delta(prompt.request_id, finish_reason="error", error=outcome))
                else:
                    tasks.append(self._start(prompt, outcome, collector))
            yield Frame(tuple(refusals))
            left = len(tasks)
            while left:
                frame = await collector.take()
                left -= sum(delta.finish_reason is not None for delta in frame.deltas)
                yield frame
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            for task in self._running.get(request_id, ()):
                task.cancel()

    def _too_late(self, prompt: Prompt) -> PromptProblem | None:
        if prompt.timeout_seconds is None:
            return None
        wait = self._drain.seconds_for(max(0, self._held - self._engine.at_once)) or 0.0
        if prompt.timeout_seconds > wait:
            return None
        return msgspec.structs.replace(
            _LATE,
            detail=f"It would wait {wait:.1f} s for the engine and has {max(prompt.timeout_seconds, 0):.1f} s left.",
        )

    async def _accept(self, prompt: Prompt) -> Accepted | PromptProblem:
        _log_within(prompt)
        late = self._too_late(prompt)
        if late is not None:
            return late
        try:
            return await self._engine.accept(prompt)
        except PromptRefused as refused:
            return refused.problem
        except Exception:  # the boundary to the engine: one prompt's failure is its own
            log.exception("prompt %s failed", prompt.request_id)
            return _ENGINE_FAILED

    def _start(self, prompt: Prompt, accepted: Accepted, collector: _Collector) -> asyncio.Task[None]:
        request_id = prompt.request_id
        loop = asyncio.get_running_loop()
        run = _Run(prompt, accepted, collector)
        task = loop.create_task(run())
        self._running[request_id].add(task)
        if self._held > self._engine.at_once:
            self._drain.blocked(time.monotonic())
        expiry = None
        if prompt.timeout_seconds is not None:
            expiry = loop.call_later(prompt.timeout_seconds, run.expire, task)

        def ended(_: asyncio.Task[None]) -> None:
            self._held -= 1
            self._drain.left(1, time.monotonic())
            if self._held <= self._engine.at_once:
                self._drain.idle()
            if expiry is not None:
                expiry.cancel()
            if task.cancelled():  # before its first step, so that it never ran
                collector.put(run.last)
            self._running[request_id].discard(task)
            if not self._running[request_id]:
                del self._running[request_id]

        task.add_done_callback(ended)
        return task


class _Run:
    """Moves an engine's pieces into the collector; ends with exactly one delta that has a finish reason."""

    def __init__(self, prompt: Prompt, accepted: Accepted, collector: _Collector) -> None:
        self._id = prompt.request_id
        self._prompt = prompt
        self._accepted = accepted
        self._collector = collector
        self._made = 0
        self._late = False

    @property
    def last(self) -> Delta:
        """The end of a prompt that was stopped."""
        if self._late:
            return Delta(self._id, finish_reason="error", error=_LATE)
        return Delta(self._id, finish_reason="abort", usage=Usage(self._accepted.prompt_tokens, self._made))

    def expire(self, task: asyncio.Task[None]) -> None:
        """Its time has run out."""
        self._late = True
        task.cancel()

    async def __call__(self) -> None:
        _log_within(self._prompt)
        last: Delta | None = None
        try:
            async with aclosing(self._accepted.pieces) as pieces:
                async for piece in pieces:
                    self._made += piece.tokens
                    if piece.finish_reason is None:
                        self._collector.put(Delta(self._id, piece.text, piece.tokens))
                    else:
                        usage = Usage(self._accepted.prompt_tokens, self._made)
                        last = Delta(self._id, piece.text, piece.tokens, piece.finish_reason, usage)
        except asyncio.CancelledError:
            pass  # `last` says why
        except Exception:  # the boundary to the engine: one prompt's failure is its own
            log.exception("prompt %s failed", self._id)
            last = Delta(self._id, finish_reason="error", error=_ENGINE_FAILED)
        self._collector.put(last or self.last)


def _log_within(prompt: Prompt) -> None:
    """What this task, which is one prompt's, logs from now on is in that prompt's trace."""
    context = span_context(prompt.traceparent)
    if context is not None:
        logged_within(context)
