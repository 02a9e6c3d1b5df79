"""One batcher for everything that is cheaper together: texts to encode, vectors to search, prompts to submit.

A batch leaves when a slot is free and work waits. So an idle backend serves at once, and a busy one lets the batch
grow for exactly as long as it is busy: no timer, no window to tune (text-embeddings-inference's queue is the model).

`app_llm` uses it too, to merge the calls of several gateways (docs/decisions/0002-one-batcher.md).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self

from app.drain import ItemsAndCost
from app.errors import DeadlineExceeded, Draining, Overloaded, PharosError
from app.waiting import BatchLimits, In, Item, Out, Waiting
from app.watching import UNWATCHED, BatchWatch, DropReason

__all__ = ["BatchLimits", "Batcher", "Served"]


@dataclass(frozen=True, slots=True)
class Served(Generic[Out]):
    """An outcome and where its time went, in seconds: waiting for a slot, then in the backend."""

    value: Out
    queued_seconds: float
    served_seconds: float


class Batcher(Generic[In, Out]):
    """Gathers items into calls of `run`, which takes a batch and returns one outcome per item, in order.

    An outcome that is an exception instance fails its own item; an exception raised by `run` fails the whole batch, and
    only it. Items of different `group`s never share a batch; among groups the one whose head waited longest goes first,
    so that a busy group cannot starve the others. Use as an async context manager: leaving it refuses new items and
    waits for the queued and running ones.

    `backends()` is how many there are to share the work between; `room()` is how many items they can take now, and
    whoever makes room calls `wake`. `watch` sees what happens, for metrics and traces; `discard(value)` takes an
    outcome whose caller went away while the batch was running, so that what it holds can be freed.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In]], Awaitable[Sequence[Out | BaseException]]],
        limits: BatchLimits,
        *,
        cost: Callable[[In], float] = lambda _: 1,
        group: Callable[[In], Hashable] = lambda _: None,
        backends: Callable[[], int] = lambda: 1,
        room: Callable[[], float] = lambda: math.inf,
        watch: BatchWatch = UNWATCHED,
        discard: Callable[[Out], None] = lambda _: None,
    ) -> None:
        self._run = run
        self._limits = limits
        self._cost = cost
        self._group = group
        self._backends = backends
        self._room = room
        self._watch = watch
        self._discard = discard
        self._waiting: Waiting[In, Served[Out]] = Waiting(limits)
        self._drain = ItemsAndCost()
        self._running: dict[asyncio.Task[None], Sequence[Item[In, Served[Out]]]] = {}
        self._wake_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def queued(self) -> int:
        """Items waiting for a slot."""
        return self._waiting.items

    @property
    def queue_items(self) -> int:
        """Most of them there may be."""
        return self._limits.queue_items

    @property
    def queued_cost(self) -> float:
        """Their cost."""
        return self._waiting.cost

    def expected_wait(self) -> float | None:
        """Seconds a new item would wait, by the rate at which the queue has lately drained; None while unknown."""
        return self._drain.seconds_for(self._waiting.items, self._waiting.cost)

    async def submit(self, value: In, *, deadline: float | None = None) -> Served[Out]:
        """Queue one item and wait for its outcome, until `deadline`, a `time.monotonic()` instant.

        Cancelling the caller takes the item out; when every caller of a running batch has gone, the batch is cancelled.
        Raises Overloaded, Draining, DeadlineExceeded (also at once, when the queue is longer than the time left), or
        what `run` raised.
        """
        cost = self._cost(value)
        loop = asyncio.get_running_loop()
        left = None if deadline is None else deadline - time.monotonic()
        try:
            self._admit(cost, left)
        except PharosError as refusal:
            self._watch.item_dropped(_why(refusal))
            raise
        until = math.inf if deadline is None else deadline
        item: Item[In, Served[Out]] = Item(value, cost, self._group(value), until, loop.create_future())
        self._waiting.add(item)
        self._idle.clear()
        self._schedule_wake()
        expiry = None if left is None else loop.call_later(left, self._expire, item)
        try:
            return await item.future
        except asyncio.CancelledError:
            if item.future.cancelled():
                if item.left is None:
                    self._watch.item_dropped("cancelled")
                self._withdraw(item)
            elif item.future.exception() is None:
                # Cancelled in the very turn in which the outcome came.
                self._discard(item.future.result().value)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
            self._watch.item_ended(item.arrived, item.left)

    def wake(self) -> None:
        """There is room again. Also safe to call when there is none."""
        if self._waiting.items:
            self._schedule_wake()

    def _admit(self, cost: float, seconds_left: float | None) -> None:
        if self._closed:
            raise Draining("This service is shutting down; try again.")
        wait = self.expected_wait()
        if seconds_left is not None and seconds_left <= (wait or 0.0):
            raise DeadlineExceeded(
                "The request's time has run out."
                if seconds_left <= 0
                else f"About {wait:.1f} s of work is waiting and this request has {seconds_left:.1f} s left."
            )
        limits = self._limits
        if (
            self._waiting.items >= limits.queue_items
            or (self._waiting.items and self._waiting.cost + cost > limits.queue_cost)
            or (wait is not None and wait > limits.queue_seconds)
        ):
            raise Overloaded(
                f"{self._waiting.items:,} others are waiting already; try again in a moment.", retry_after_seconds=wait
            )

    def _schedule_wake(self) -> None:
        # One turn of the loop later, so that items which arrive in the same turn leave in the same batch.
        if not self._wake_scheduled:
            self._wake_scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        # Only ever by `_schedule_wake`: a batch that has just left must take its room before the next one is measured.
        self._wake_scheduled = False
        if self._waiting.items:
            backends = max(1, self._backends())
            room = 0 if len(self._running) >= self._limits.in_flight * backends else self._room()
            if room < 1:
                self._drain.blocked(time.monotonic())
            else:
                self._dispatch(int(min(self._limits.batch_items, self._share(backends), room)))
        if not self._waiting.items:
            self._drain.idle()
            if not self._running:
                self._idle.set()

    def _share(self, backends: int) -> int:
        """How many items the next batch leaves with, so that every backend gets as many: the batch that fits one would
        leave the others idle. Where batches are held back until they are full, full ones are what is wanted."""
        if self._limits.max_wait_seconds:
            return self._waiting.items
        return math.ceil(self._waiting.items / (backends - len(self._running) % backends))

    def _dispatch(self, items: int) -> None:
        now = time.monotonic()
        batch = self._waiting.take(items, now, hold_back=not self._closed)
        if batch:
            for item in batch:
                item.left = now
            self._watch.batch_left(len(batch), now - batch[0].arrived)
            self._drain.left(len(batch), sum(item.cost for item in batch), now)
            # A context of its own: a batch belongs to no single one of its submitters.
            task = asyncio.get_running_loop().create_task(self._serve(batch, now), context=Context())
            self._running[task] = batch
            task.add_done_callback(self._ended)
            # The next batch in the next turn: by then this one has taken its room.
            self._schedule_wake()
        else:
            self._drain.idle()  # what is held back is not blocked
            if self._waiting.items and self._timer is None:
                seconds = self._waiting.held_back_until() - now
                self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()

    async def _serve(self, batch: Sequence[Item[In, Served[Out]]], started: float) -> None:
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
        self._schedule_wake()

    def _expire(self, item: Item[In, Served[Out]]) -> None:
        if not item.future.done():
            item.future.set_exception(DeadlineExceeded("The request's time ran out before it was served."))
            if item.left is None:
                self._watch.item_dropped("deadline")
            self._withdraw(item)

    def _withdraw(self, item: Item[In, Served[Out]]) -> None:
        """Take an item nobody waits for out of the queue, or cancel its batch when it was the last one waited for."""
        self._waiting.remove(item)
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
        self.wake()  # what is held back leaves now
        await self._idle.wait()
        if self._timer is not None:
            self._timer.cancel()


def _why(refusal: PharosError) -> DropReason:
    if isinstance(refusal, DeadlineExceeded):
        return "deadline"
    return "draining" if isinstance(refusal, Draining) else "overloaded"
