"""The `Generator` port over any engine: one stream of frames for a batch of prompts.

An engine (vLLM in vllm_engine.py, a simulation in simulated.py) runs single prompts; `BatchedGenerator` runs a batch of
them side by side and merges what they make into frames.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from app_llm.errors import Busy, PromptRefused
from contracts.types import Delta, FinishReason, Frame, Prompt, PromptProblem, Usage

log = logging.getLogger(__name__)

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


class BatchedGenerator:
    """Implements `contracts.ports.Generator`. It holds at most `prompts_max` prompts; beyond that it is Busy."""

    def __init__(self, engine: Engine, prompts_max: int) -> None:
        self._engine = engine
        self._prompts_max = prompts_max
        # Two gateways may use the same id, so an id names a set of tasks.
        self._running: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._held = 0

    @property
    def held(self) -> int:
        """Prompts accepted and not ended."""
        return self._held

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As the port says. Raises Busy before anything has started."""
        if self._held + len(prompts) > self._prompts_max:
            raise Busy(f"{self._held} prompts are running or waiting; try again in a moment.")
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
                    tasks.append(self._start(prompt.request_id, outcome, collector))
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

    async def _accept(self, prompt: Prompt) -> Accepted | PromptProblem:
        try:
            return await self._engine.accept(prompt)
        except PromptRefused as refused:
            return refused.problem
        except Exception:  # the boundary to the engine: one prompt's failure is its own
            log.exception("prompt %s failed", prompt.request_id)
            return _ENGINE_FAILED

    def _start(self, request_id: str, accepted: Accepted, collector: _Collector) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(_run(request_id, accepted, collector))
        self._running[request_id].add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._held -= 1
            if task.cancelled():  # before its first step, so that _run never ran
                collector.put(Delta(request_id, finish_reason="abort", usage=Usage(accepted.prompt_tokens, 0)))
            self._running[request_id].discard(task)
            if not self._running[request_id]:
                del self._running[request_id]

        task.add_done_callback(ended)
        return task


async def _run(request_id: str, accepted: Accepted, collector: _Collector) -> None:
    """Move an engine's pieces into the collector; end with exactly one delta that has a finish reason."""
    made = 0
    last = Delta(request_id, finish_reason="abort", usage=Usage(accepted.prompt_tokens, 0))
    try:
        async with aclosing(accepted.pieces) as pieces:
            async for piece in pieces:
                made += piece.tokens
                if piece.finish_reason is None:
                    collector.put(Delta(request_id, piece.text, piece.tokens))
                else:
                    usage = Usage(accepted.prompt_tokens, made)
                    last = Delta(request_id, piece.text, piece.tokens, piece.finish_reason, usage)
    except asyncio.CancelledError:
        last = Delta(request_id, finish_reason="abort", usage=Usage(accepted.prompt_tokens, made))
    except Exception:  # the boundary to the engine: one prompt's failure is its own
        log.exception("prompt %s failed", request_id)
        last = Delta(request_id, finish_reason="error", error=_ENGINE_FAILED)
    finally:
        collector.put(last)
