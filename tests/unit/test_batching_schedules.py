"""The batcher under random schedules: whatever comes, leaves, fails or runs late, its promises hold at every step."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching import Batcher, BatchLimits, Served
from app.errors import DeadlineExceeded, Overloaded
from tests.support.watching import Seen

SOON_SECONDS = 0.001
"""A deadline that a `Stall` passes for certain; whether it passes without one does not matter here."""


@dataclass(frozen=True)
class Submit:
    group: int
    cost: int
    soon: bool


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class Finish:
    which: int
    fails: bool


@dataclass(frozen=True)
class Turns:
    count: int


@dataclass(frozen=True)
class Stall:
    """The event loop does not turn, while deadlines pass."""


@dataclass(frozen=True)
class Scale:
    backends: int
    room: int


Step = Submit | Cancel | Finish | Turns | Stall | Scale

STEPS = st.lists(
    st.one_of(
        st.builds(Submit, group=st.integers(0, 2), cost=st.integers(1, 5), soon=st.booleans()),
        st.builds(Submit, group=st.just(0), cost=st.just(1), soon=st.just(False)),
        st.builds(Cancel, st.integers(0, 100)),
        st.builds(Finish, st.integers(0, 100), st.booleans()),
        st.builds(Turns, st.integers(0, 6)),
        st.builds(Stall),
        st.builds(Scale, backends=st.integers(0, 3), room=st.integers(0, 6)),
    ),
    max_size=60,
)

LIMITS = st.builds(
    BatchLimits,
    batch_items=st.integers(1, 4),
    queue_items=st.integers(4, 12),
    in_flight=st.integers(1, 3),
    batch_cost=st.sampled_from([5.0, 8.0, math.inf]),
    queue_cost=st.sampled_from([12.0, math.inf]),
    queue_seconds=st.just(math.inf),
    max_wait_seconds=st.sampled_from([0.0, 0.0, 0.0005, 60.0]),
)


class BackendFailed(Exception):
    """Fails a batch."""


@dataclass
class Model:
    """Plays a schedule, and knows at every moment what the batcher may and may not do."""

    limits: BatchLimits
    items: list[Submit] = field(default_factory=list)
    tasks: list[asyncio.Task[Served[str]]] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    unwanted: set[int] = field(default_factory=set)
    """Cancelled, or past their deadline."""
    unwanted_then: set[int] = field(default_factory=set)
    """The same when the last batch left."""
    waiting: set[int] = field(default_factory=set)
    order: list[int] = field(default_factory=list)
    """As they reached the backend."""
    running: dict[int, tuple[list[int], asyncio.Future[None]]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    made: set[int] = field(default_factory=set)
    discarded: list[str] = field(default_factory=list)
    backends: int = 1
    room: float = math.inf
    taken: int = 0
    promised: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        model = self

        class Watch(Seen):
            def batch_left(self, items: int, oldest_wait_seconds: float) -> None:
                super().batch_left(items, oldest_wait_seconds)
                model.batch_left(items)

        self.seen = Watch()
        self.begun = 0
        self.batcher: Batcher[int, str] = Batcher(
            self.run,
            self.limits,
            cost=lambda i: self.items[i].cost,
            group=lambda i: self.items[i].group,
            backends=lambda: self.backends,
            room=lambda: self.room - self.taken,
            watch=self.seen,
            discard=self.discarded.append,
        )

    async def submit(self, index: int, deadline: float | None) -> Served[str]:
        self.begun += 1  # a task that is cancelled before its first turn never gets here
        return await self.batcher.submit(index, deadline=deadline)

    def batch_left(self, items: int) -> None:
        assert len(self.running) < self.limits.in_flight * max(1, self.backends)
        assert 1 <= items <= self.room - self.promised, "sent into room that others have been promised"
        self.promised += items
        self.unwanted_then = set(self.unwanted)

    async def run(self, batch: Sequence[int]) -> Sequence[str]:
        self.taken += len(batch)
        self.check(batch)
        self.order += batch
        self.waiting -= set(batch)
        key, self.batches = self.batches, self.batches + 1
        gate = asyncio.get_running_loop().create_future()
        self.running[key] = (list(batch), gate)
        try:
            await gate
        except BackendFailed:
            self.failed |= set(batch)
            raise
        finally:
            del self.running[key]
            self.taken -= len(batch)
            self.promised -= len(batch)
        self.made |= set(batch)
        return [f"outcome {i}" for i in batch]

    def check(self, batch: Sequence[int]) -> None:
        """What holds for every batch as it begins."""
        groups = {self.items[i].group for i in batch}
        assert len(groups) == 1
        assert len(batch) <= self.limits.batch_items
        assert len(batch) == 1 or sum(self.items[i].cost for i in batch) <= self.limits.batch_cost
        assert not set(batch) & self.unwanted_then, "nobody waits for it any more"
        if not self.limits.max_wait_seconds:
            # Bounded overtaking: what waits in other groups waits behind no batch whose oldest item came later.
            # A deadline may pass without a `Stall` too, and its task learns of it a turn later.
            now = time.monotonic()
            still = {i for i in self.waiting - self.unwanted if self.deadlines[i] > now and not self.tasks[i].done()}
            assert all(min(batch) < i for i in still if self.items[i].group not in groups)

    async def play(self, step: Step) -> None:
        if isinstance(step, Submit):
            deadline = time.monotonic() + SOON_SECONDS if step.soon else None
            index = len(self.items)
            self.items.append(step)
            self.deadlines.append(math.inf if deadline is None else deadline)
            self.waiting.add(index)
            self.tasks.append(asyncio.ensure_future(self.submit(index, deadline)))
        elif isinstance(step, Cancel) and self.tasks:
            index = step.which % len(self.tasks)
            if self.tasks[index].cancel():
                self.unwanted.add(index)
        elif isinstance(step, Finish) and self.running:
            _, gate = list(self.running.values())[step.which % len(self.running)]
            if not gate.done():
                gate.set_exception(BackendFailed()) if step.fails else gate.set_result(None)
        elif isinstance(step, Turns):
            for _ in range(step.count):
                await asyncio.sleep(0)
        elif isinstance(step, Stall):
            await asyncio.sleep(0)  # what has been submitted is in the queue
            time.sleep(SOON_SECONDS * 1.5)  # noqa: ASYNC251  # the loop does not turn: that is the point
            self.unwanted |= {i for i in self.waiting if self.items[i].soon}
        elif isinstance(step, Scale):
            self.backends, self.room = step.backends, step.room
            self.batcher.wake()

    async def quiet(self) -> None:
        """Let everything happen that needs no one's help; then nothing may wait while there is a place for it."""
        for _ in range(12):
            await asyncio.sleep(0)
        slots = self.limits.in_flight * max(1, self.backends) - len(self.running)
        if slots > 0 and self.room - self.taken >= 1 and not self.limits.max_wait_seconds:
            assert self.batcher.queued == 0

    async def finish(self) -> None:
        """From here on everything is served, and the context is left."""
        self.backends, self.room = 1, math.inf
        leaving = asyncio.ensure_future(self.batcher.__aexit__(None, None, None))
        while not (leaving.done() and all(task.done() for task in self.tasks)):
            await self.play(Finish(0, fails=False))
            await asyncio.sleep(0)
        await leaving

    def check_outcomes(self) -> None:
        """Exactly one outcome for each item."""
        assert (self.batcher.queued, self.batcher.queued_cost) == (0, 0)
        assert len(self.order) == len(set(self.order))
        assert self.seen.served + len(self.seen.dropped) == self.begun, "the watch sees every item end once"
        for group in range(3):
            of_group = [i for i in self.order if self.items[i].group == group]
            assert of_group == sorted(of_group), "first in, first out within a group"
        served = set(self.order)
        assert len(self.discarded) == len(set(self.discarded))
        for index, task in enumerate(self.tasks):
            delivered = not task.cancelled() and task.exception() is None
            assert (f"outcome {index}" in self.discarded) == (index in self.made and not delivered)
            if task.cancelled():
                assert index in self.unwanted
            elif isinstance(error := task.exception(), BackendFailed):
                assert index in self.failed, "another batch's failure"
            elif isinstance(error, DeadlineExceeded):
                assert self.items[index].soon
            elif isinstance(error, Overloaded):
                assert index not in served
            else:
                assert error is None
                assert task.result().value == f"outcome {index}"
                assert index in served


@settings(max_examples=300, deadline=None)
@given(limits=LIMITS, steps=STEPS)
def test_the_promises_hold_under_any_schedule(limits: BatchLimits, steps: list[Step]) -> None:
    async def scenario() -> None:
        model = Model(limits)
        for step in steps:
            await model.play(step)
            if isinstance(step, Turns):
                await model.quiet()
        await model.finish()
        model.check_outcomes()

    asyncio.run(scenario())
