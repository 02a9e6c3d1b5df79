"""The ports `Encoder`, `Reranker` and `Generator` over several replicas: choose one, try another where that is safe.

A call is sent again only while nobody has seen anything of its outcome: an encoding or scores as a whole, a
prompt before its first token (docs/decisions/0008-retries.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from app.errors import ModelServiceDown, ModelServiceFailed, Overloaded, PharosError
from app.replicas import Replica, Replicas
from contracts.types import Delta, Encoding, Frame, Pair, Prompt, PromptProblem, Scores

T = TypeVar("T")

ATTEMPTS = 3
"""Replicas tried for one call. When three of them fail, the fault is more likely the call's or the network's."""

CHARACTERS_PER_TOKEN = 4
"""Of English text, by the usual rule of thumb: an estimate, to weigh prompts against each other."""

_ELSEWHERE = (ModelServiceDown, ModelServiceFailed, Overloaded)
"""What another replica may do better."""


def outstanding_tokens(prompt: Prompt) -> int:
    """About how many tokens `prompt` will cost at most, read and written."""
    text = prompt.text or ""
    characters = len(text) + sum(len(message.content) for message in prompt.messages)
    return characters // CHARACTERS_PER_TOKEN + prompt.sampling.max_tokens


async def on_any(replicas: Replicas, call: Callable[[Replica], Awaitable[T]]) -> T:
    """The outcome of `call` with the replica that has the fewest texts outstanding, or with another one where that
    fails. Raises PharosError."""
    tried: list[Replica] = []
    error: PharosError | None = None
    while len(tried) < ATTEMPTS:
        try:
            replica = replicas.pick(_texts, without=tried)
        except ModelServiceDown as none_left:
            error = error or none_left
            break
        tried.append(replica)
        try:
            outcome = await call(replica)
        except _ELSEWHERE as failure:
            error = failure
            replicas.failed(replica, error)
        else:
            replicas.succeeded(replica)
            return outcome
    assert error is not None, "ATTEMPTS is positive"
    raise error


class ReplicatedEncoder:
    """An `Encoder` that sends each call to the replica with the fewest texts outstanding."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says. Raises PharosError."""
        started = time.monotonic()

        async def encode(replica: Replica) -> Encoding:
            left = None if timeout_seconds is None else timeout_seconds - (time.monotonic() - started)
            replica.texts += len(texts)
            try:
                return await replica.client.encoder.encode(texts, timeout_seconds=left)
            finally:
                replica.texts -= len(texts)

        return await on_any(self._replicas, encode)


class ReplicatedReranker:
    """A `Reranker` that sends each call to the replica with the fewest texts outstanding."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says. Raises PharosError; NoReranker of one replica is the answer, since none of the others is
        known to have one."""
        started = time.monotonic()

        async def rerank(replica: Replica) -> Scores:
            left = None if timeout_seconds is None else timeout_seconds - (time.monotonic() - started)
            replica.texts += len(pairs)
            try:
                return await replica.client.reranker.rerank(pairs, timeout_seconds=left)
            finally:
                replica.texts -= len(pairs)

        return await on_any(self._replicas, rerank)


class ReplicatedGenerator:
    """A `Generator` that sends each batch to the replica with the fewest tokens outstanding."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._running_on: dict[str, _Outstanding] = {}

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As the port says. When the replica fails, prompts that have no token yet go on to another one; the others
        end with a problem. Raises PharosError when no replica has accepted them."""
        started = time.monotonic()
        silent = {prompt.request_id: prompt for prompt in prompts}
        tried: list[Replica] = []
        accepted = False
        error: PharosError | None = None
        while silent and len(tried) < ATTEMPTS:
            try:
                replica = self._replicas.pick(_tokens, prompts=len(silent), without=tried)
            except ModelServiceDown as none_left:
                error = error or none_left
                break
            tried.append(replica)
            work = _Outstanding(replica, silent.values(), self._running_on)
            try:
                async with aclosing(replica.client.generator.generate(list(silent.values()))) as frames:
                    async for frame in frames:
                        accepted = True
                        for delta in frame.deltas:
                            if delta.finish_reason is not None:
                                silent.pop(delta.request_id, None)
                                work.ended(delta.request_id)
                            elif delta.tokens:
                                silent.pop(delta.request_id, None)
                        yield frame
                if not work.left:
                    self._replicas.succeeded(replica)
                    return
                error = ModelServiceFailed("The model service ended the stream before the answers did; try again.")
            except _ELSEWHERE as failure:
                error = failure
            finally:
                lost = work.release()
            self._replicas.failed(replica, error)
            for request_id in work.aborted:  # nobody waits for it any more
                silent.pop(request_id, None)
            heard = [request_id for request_id in lost if request_id not in silent]
            if heard:
                yield _failed(heard, error)
            silent = _with_less_time(silent, time.monotonic() - started)
            started = time.monotonic()
        if silent and error is not None:
            if not accepted:
                raise error
            yield _failed(silent, error)

    async def abort(self, request_ids: Sequence[str]) -> None:
        by_replica: dict[Replica, list[str]] = {}
        for request_id in request_ids:
            work = self._running_on.get(request_id)
            if work is not None:
                work.aborted.add(request_id)
                by_replica.setdefault(work.replica, []).append(request_id)
        # All of them, also when one fails.
        outcomes = await asyncio.gather(
            *(replica.client.generator.abort(ids) for replica, ids in by_replica.items()), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


class _Outstanding:
    """The prompts of one call, counted at their replica until each has ended."""

    def __init__(self, replica: Replica, prompts: Iterable[Prompt], running_on: dict[str, _Outstanding]) -> None:
        self.replica = replica
        self.aborted: set[str] = set()
        self._running_on = running_on
        self.left = {prompt.request_id: outstanding_tokens(prompt) for prompt in prompts}
        replica.prompts += len(self.left)
        replica.tokens += sum(self.left.values())
        running_on.update(dict.fromkeys(self.left, self))

    def ended(self, request_id: str) -> None:
        tokens = self.left.pop(request_id, None)
        if tokens is not None:
            self.replica.prompts -= 1
            self.replica.tokens -= tokens
            del self._running_on[request_id]

    def release(self) -> list[str]:
        """End what has not ended; returns its ids."""
        lost = list(self.left)
        for request_id in lost:
            self.ended(request_id)
        return lost


def _texts(replica: Replica) -> float:
    return replica.texts


def _tokens(replica: Replica) -> float:
    return replica.tokens


def _with_less_time(prompts: dict[str, Prompt], seconds: float) -> dict[str, Prompt]:
    """The prompts with so much less time; the model service refuses those that have none left."""
    return {
        request_id: prompt
        if prompt.timeout_seconds is None
        else msgspec.structs.replace(prompt, timeout_seconds=prompt.timeout_seconds - seconds)
        for request_id, prompt in prompts.items()
    }


def _failed(request_ids: Iterable[str], error: PharosError) -> Frame:
    problem = PromptProblem(error.status, error.code, error.detail)
    return Frame(tuple(Delta(request_id, finish_reason="error", error=problem) for request_id in request_ids))
