"""One batcher for everything that is cheaper together: texts to encode, vectors to search, prompts to submit.

A batch leaves when a slot is free and work waits. So an idle backend serves at once, and a busy one lets the batch
grow for exactly as long as it is busy: no timer, no window to tune (text-embeddings-inference's queue is the model).

This module needs nothing but the standard library; `app_llm` uses it too, to merge the calls of several gateways
(docs/decisions/0002-one-batcher.md).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class QueueFull(Exception):
    """The queue holds as much as it may; try again later."""


class BatcherClosed(Exception):
    """The batcher is shutting down and takes no new work."""


class DeadlinePassed(Exception):
    """The item's deadline passed while it waited; it never reached the backend."""


@dataclass(frozen=True, slots=True)
class Served(Generic[Out]):
    """An outcome and where its time went, in seconds: waiting for a slot, then in the backend."""

    value: Out
    queued_seconds: float
    served_seconds: float


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The bounds of a batcher. `cost` is whatever the batcher's `cost` function counts (texts, tokens, ...)."""

    batch_items: int
    queue_items: int
    in_flight: int = 1
    batch_cost: float = math.inf

    def __post_init__(self) -> None:
        if min(self.batch_items, self.queue_items, self.in_flight) < 1 or self.batch_cost <= 0:
            raise ValueError(f"every limit of a batcher must be positive: {self}")
        if self.queue_items < self.batch_items:
            raise ValueError(
                f"a queue of {self.queue_items} items can never fill a batch of {self.batch_items}: "
                "raise the queue's limit or lower the batch's"
            )


@dataclass(slots=True, eq=False)
class _Item(Generic[In, Out]):
    value: In
    cost: float
    deadline: float | None
    future: asyncio.Future[Served[Out]]
    arrived: float = field(default_factory=time.monotonic)


class Batcher(Generic[In, Out]):
    """Gathers items into calls of `run`, which takes a batch and returns one outcome per item, in order.

    An outcome that is an exception instance fails its own item; an exception raised by `run` fails the whole batch, and
    only it. Items of different `group`s never share a batch; among groups the one whose head waited longest goes first,
    so that a busy group cannot starve the others. Use as an async context manager: leaving it refuses new items and
    waits for the queued and running ones.

    `on_batch(items, oldest_wait_seconds)` is called as each batch leaves (for metrics); `discard(value)` takes an
    outcome whose caller went away while the batch was running, so that what it holds can be freed.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In]], Awaitable[Sequence[Out | BaseException]]],
        limits: BatchLimits,
        *,
        cost: Callable[[In], float] = lambda _: 1,
        group: Callable[[In], Hashable] = lambda _: None,
        on_batch: Callable[[int, float], None] = lambda _items, _wait: None,
        discard: Callable[[Out], None] = lambda _: None,
    ) -> None:
        self._run = run
        self._limits = limits
        self._cost = cost
        self._group = group
        self._on_batch = on_batch
        self._discard = discard
        # A group exists while it has items. Its place in the dict does not matter: heads are compared by arrival.
        self._groups: dict[Hashable, deque[_Item[In, Out]]] = {}
        self._queued = 0
        self._running: dict[asyncio.Task[None], Sequence[_Item[In, Out]]] = {}
        self._wake_scheduled = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def queued(self) -> int:
        """Items waiting for a slot."""
        return self._queued

    async def submit(self, value: In, *, deadline: float | None = None) -> Served[Out]:
        """Queue one item and wait for its outcome. `deadline` is a `time.monotonic()` instant.

        Cancelling the caller takes the item out; when every caller of a running batch has gone, the batch is cancelled.
        Raises QueueFull, BatcherClosed, DeadlinePassed, or what `run` raised.
        """
        if self._closed:
            raise BatcherClosed("shutting down")
        if self._queued >= self._limits.queue_items:
            raise QueueFull(f"{self._queued} items are waiting already")
        item: _Item[In, Out] = _Item(value, self._cost(value), deadline, asyncio.get_running_loop().create_future())
        group = self._group(value)
        self._groups.setdefault(group, deque()).append(item)
        self._queued += 1
        self._idle.clear()
        self._schedule_wake()
        try:
            return await item.future
        except asyncio.CancelledError:
            if item.future.cancelled():
                self._withdraw(item, group)
            elif item.future.exception() is None:
                # Cancelled in the very turn in which the outcome came.
                self._discard(item.future.result().value)
            raise

    def _schedule_wake(self) -> None:
        # One turn of the loop later, so that items which arrive in the same turn leave in the same batch.
        if not self._wake_scheduled:
            self._wake_scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        while self._queued and len(self._running) < self._limits.in_flight:
            batch = self._next_batch()
            if batch:
                now = time.monotonic()
                self._on_batch(len(batch), now - batch[0].arrived)
                task = asyncio.get_running_loop().create_task(self._serve(batch, now))
                self._running[task] = batch
                task.add_done_callback(self._ended)
        if not self._queued and not self._running:
            self._idle.set()

    def _next_batch(self) -> list[_Item[In, Out]]:
        """The items of the group that waited longest, within the limits; abandoned and late ones are dropped."""
        key = min(self._groups, key=lambda k: self._groups[k][0].arrived)
        waiting = self._groups[key]
        batch: list[_Item[In, Out]] = []
        cost = 0.0
        now = time.monotonic()
        while waiting and len(batch) < self._limits.batch_items:
            item = waiting[0]
            live = not item.future.done()
            late = item.deadline is not None and item.deadline <= now
            if live and not late and batch and cost + item.cost > self._limits.batch_cost:
                break
            waiting.popleft()
            self._queued -= 1
            if live and late:
                item.future.set_exception(DeadlinePassed("the deadline passed while the item waited"))
            elif live:
                batch.append(item)
                cost += item.cost
        if not waiting:
            del self._groups[key]
        return batch

    async def _serve(self, batch: Sequence[_Item[In, Out]], started: float) -> None:
        outcomes: Sequence[Out | BaseException]
        try:
            outcomes = await self._run([item.value for item in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{len(outcomes)} outcomes for a batch of {len(batch)} items")
        except asyncio.CancelledError:
            for item in batch:
                item.future.cancel()
            raise
        except Exception as exc:  # the boundary between the backend and its waiters: each of them gets it
            outcomes = [exc] * len(batch)
        served = time.monotonic() - started
        for item, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                if not item.future.done():
                    item.future.set_exception(outcome)
            elif item.future.done():
                self._discard(outcome)
            else:
                item.future.set_result(Served(outcome, started - item.arrived, served))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake()

    def _withdraw(self, item: _Item[In, Out], group: Hashable) -> None:
        """Take an item whose caller left out of the queue, or cancel its batch when it was the last one waited for."""
        waiting = self._groups.get(group)
        if waiting is not None and item in waiting:
            waiting.remove(item)
            self._queued -= 1
            if not waiting:
                del self._groups[group]
        for task, batch in self._running.items():
            if item in batch and not task.cancelling() and all(other.future.done() for other in batch):
                task.cancel()
        self._schedule_wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._idle.wait()
