"""The batcher: what travels together, who waits, who is dropped, and that nothing is ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar

import pytest

from app.batching import Batcher, BatchLimits, Served
from app.errors import DeadlineExceeded, Draining, Overloaded
from tests.support.watching import Seen
from tests.unit.timers import Timers

LIMITS = BatchLimits(batch_items=8, queue_items=64)


class Backend:
    """Doubles numbers, remembers its batches, and waits at a gate."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if 666 in items:
            raise RuntimeError("the whole batch fails")
        return [ValueError("bad") if item == 13 else item * 2 for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_items_that_arrive_together_travel_together() -> None:
    backend = Backend()
    async with Batcher(backend, LIMITS) as batcher:
        served = await asyncio.gather(*(batcher.submit(i) for i in range(5)))
    assert [s.value for s in served] == [0, 2, 4, 6, 8]
    assert backend.batches == [[0, 1, 2, 3, 4]]


async def test_an_idle_backend_serves_at_once_and_a_busy_one_lets_the_batch_grow() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, LIMITS) as batcher:
        first = asyncio.ensure_future(batcher.submit(1))
        await settle()
        assert backend.batches == [[1]]
        later = []
        for i in (2, 3, 4):
            later.append(asyncio.ensure_future(batcher.submit(i)))
            await settle()
        assert backend.batches == [[1]]
        backend.gate.set()
        await asyncio.gather(first, *later)
    assert backend.batches == [[1], [2, 3, 4]]


async def test_a_batch_is_bounded_by_items_and_by_cost() -> None:
    backend = Backend()
    async with Batcher(backend, BatchLimits(3, 64, batch_cost=10), cost=float) as batcher:
        await asyncio.gather(*(batcher.submit(i) for i in (4, 5, 2, 1, 1, 1, 99)))
    assert backend.batches == [[4, 5], [2, 1, 1], [1], [99]]


async def test_groups_do_not_mix_and_the_longest_waiting_goes_first() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, LIMITS, group=lambda i: i % 2) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in (0, 1, 2, 3, 4)]
        await settle()
        backend.gate.set()
        await asyncio.gather(*tasks)
    assert backend.batches == [[0, 2, 4], [1, 3]]


async def test_one_bad_item_fails_alone_and_a_failed_batch_fails_only_itself() -> None:
    async with Batcher(Backend(), BatchLimits(2, 64)) as batcher:
        outcomes = await asyncio.gather(*(batcher.submit(i) for i in (1, 13, 666, 2, 3)), return_exceptions=True)
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], RuntimeError)
    assert isinstance(outcomes[3], RuntimeError)
    assert [getattr(outcomes[i], "value", None) for i in (0, 4)] == [2, 6]


async def test_a_caller_that_leaves_the_queue_never_reaches_the_backend() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, LIMITS) as batcher:
        first, leaving, staying = (asyncio.ensure_future(batcher.submit(i)) for i in (1, 2, 3))
        await settle()
        second, gone = (asyncio.ensure_future(batcher.submit(i)) for i in (4, 5))
        await settle()
        gone.cancel()
        backend.gate.set()
        await asyncio.gather(first, leaving, staying, second)
    assert backend.batches == [[1, 2, 3], [4]]


async def test_a_batch_nobody_waits_for_is_cancelled() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, LIMITS) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in (1, 2)]
        await settle()
        tasks[0].cancel()
        await settle()
        assert backend.cancelled == 0
        tasks[1].cancel()
        await settle()
        assert backend.cancelled == 1


async def test_an_outcome_nobody_waits_for_is_handed_to_discard() -> None:
    backend = Backend(open_gate=False)
    discarded: list[int] = []
    async with Batcher(backend, LIMITS, discard=discarded.append) as batcher:
        leaving, staying = (asyncio.ensure_future(batcher.submit(i)) for i in (1, 2))
        await settle()
        leaving.cancel()
        await settle()
        backend.gate.set()
        assert (await staying).value == 4
    assert discarded == [2]


async def test_a_caller_cancelled_in_the_turn_of_its_outcome_is_discarded_too() -> None:
    discarded: list[int] = []
    callers: list[asyncio.Task[object]] = []

    async def backend(items: Sequence[int]) -> Sequence[int]:
        # Runs after the outcome is set and before the caller wakes up: the next turn of the loop.
        asyncio.get_running_loop().call_soon(callers[0].cancel)
        return [item * 2 for item in items]

    async with Batcher(backend, LIMITS, discard=discarded.append) as batcher:
        callers.append(asyncio.ensure_future(batcher.submit(1)))
        (outcome,) = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    assert discarded == [2]


async def test_callers_that_left_make_room_in_the_queue() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, BatchLimits(1, 2)) as batcher:
        running = asyncio.ensure_future(batcher.submit(1))
        await settle()
        leaving = [asyncio.ensure_future(batcher.submit(i)) for i in (2, 3)]
        await settle()
        for task in leaving:
            task.cancel()
        await settle()
        assert batcher.queued == 0
        staying = asyncio.ensure_future(batcher.submit(4))
        await settle()
        backend.gate.set()
        assert [served.value for served in await asyncio.gather(running, staying)] == [2, 8]
    assert backend.batches == [[1], [4]]


async def test_a_passed_deadline_never_reaches_the_backend() -> None:
    backend = Backend()
    async with Batcher(backend, LIMITS) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(1, deadline=time.monotonic() - 1)
        assert (await batcher.submit(2, deadline=time.monotonic() + 60)).value == 4
    assert backend.batches == [[2]]


async def test_a_deadline_that_passed_while_the_loop_was_busy_never_reaches_the_backend() -> None:
    backend = Backend()
    async with Batcher(backend, LIMITS) as batcher:
        late = asyncio.ensure_future(batcher.submit(1, deadline=time.monotonic() + 0.001))
        on_time = asyncio.ensure_future(batcher.submit(2, deadline=time.monotonic() + 60))
        asyncio.get_running_loop().call_soon(time.sleep, 0.002)  # after both have queued, before they leave
        assert (await on_time).value == 4
        with pytest.raises(DeadlineExceeded):
            await late
    assert backend.batches == [[2]]


async def test_a_deadline_that_passes_in_the_queue_or_in_the_backend_ends_the_wait(timers: Timers) -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, BatchLimits(1, 8)) as batcher:
        served = asyncio.ensure_future(batcher.submit(1, deadline=time.monotonic() + 60))
        queued = asyncio.ensure_future(batcher.submit(2, deadline=time.monotonic() + 60))
        await settle()
        assert (backend.batches, batcher.queued) == ([[1]], 1)
        timers.pass_by(60)
        outcomes = await asyncio.gather(served, queued, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded, DeadlineExceeded]
        await settle()
        assert (batcher.queued, backend.cancelled) == (0, 1)
    assert backend.batches == [[1]]


async def test_a_full_queue_refuses_at_once() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, BatchLimits(1, 2)) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(1))]
        await settle()
        tasks += [asyncio.ensure_future(batcher.submit(i)) for i in (2, 3)]
        await settle()
        with pytest.raises(Overloaded):
            await batcher.submit(4)
        backend.gate.set()
        await asyncio.gather(*tasks)


async def test_leaving_drains_and_then_refuses() -> None:
    backend = Backend(open_gate=False)
    async with Batcher(backend, BatchLimits(1, 8)) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(i)) for i in (1, 2)]
        await settle()
        asyncio.get_running_loop().call_later(0.01, backend.gate.set)
    assert [task.result().value for task in tasks] == [2, 4]
    with pytest.raises(Draining):
        await batcher.submit(3)


def test_limits_that_cannot_work_are_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="can never fill a batch"):
        BatchLimits(batch_items=8, queue_items=4)
    with pytest.raises(ValueError, match="positive"):
        BatchLimits(batch_items=0, queue_items=4)


class Slots:
    """A backend with a gate for each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gates: list[asyncio.Event] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        gate = asyncio.Event()
        self.batches.append(list(items))
        self.gates.append(gate)
        await gate.wait()
        return items

    def finish(self) -> None:
        for gate in self.gates:
            gate.set()


async def submitted(batcher: Batcher[int, int], items: Iterable[int]) -> list[asyncio.Task[Served[int]]]:
    tasks = [asyncio.ensure_future(batcher.submit(item)) for item in items]
    await settle()
    return tasks


async def finished(backend: Slots, tasks: Sequence[asyncio.Task[Served[int]]]) -> None:
    while not all(task.done() for task in tasks):
        backend.finish()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("backends", "in_flight", "sizes"),
    [(1, 1, [8]), (2, 1, [4, 4]), (3, 1, [3, 3, 2]), (2, 2, [4, 4]), (16, 1, [1] * 8), (0, 1, [8])],
)
async def test_every_backend_gets_an_even_share(backends: int, in_flight: int, sizes: list[int]) -> None:
    backend = Slots()
    async with Batcher(backend, BatchLimits(8, 64, in_flight), backends=lambda: backends) as batcher:
        tasks = await submitted(batcher, range(8))
        await settle()
        assert [len(batch) for batch in backend.batches] == sizes
        await finished(backend, tasks)


async def test_nothing_is_sent_beyond_the_room_and_all_of_it_when_there_is_some() -> None:
    room = 3
    backend = Slots()

    async def run(items: Sequence[int]) -> Sequence[int]:
        nonlocal room
        room -= len(items)
        return await backend(items)

    async with Batcher(run, BatchLimits(8, 64, in_flight=4), room=lambda: room) as batcher:
        tasks = await submitted(batcher, range(6))
        assert backend.batches == [[0, 1, 2]]
        room += 2
        await settle()
        assert backend.batches == [[0, 1, 2]]  # nobody has said so
        batcher.wake()
        await settle()
        assert backend.batches == [[0, 1, 2], [3, 4]]
        room += 10
        batcher.wake()
        await finished(backend, tasks)
    assert backend.batches == [[0, 1, 2], [3, 4], [5]]


async def test_an_item_that_comes_as_a_batch_ends_does_not_take_the_same_room_twice() -> None:
    """The end of a batch and an arrival wake the batcher in the same turn."""
    running: set[int] = set()
    gates = {item: asyncio.Event() for item in range(4)}

    async def run(items: Sequence[int]) -> Sequence[int]:
        running.update(items)
        assert len(running) == 1
        await gates[items[0]].wait()
        running.difference_update(items)
        return items

    async with Batcher(run, BatchLimits(1, 8, in_flight=2), room=lambda: 1 - len(running)) as batcher:
        tasks = await submitted(batcher, [0, 1, 2])
        gates[0].set()
        tasks += await submitted(batcher, [3])
        for gate in gates.values():
            gate.set()
        outcomes = [(await task).value for task in tasks]
    assert outcomes == [0, 1, 2, 3]


async def test_a_group_of_which_nobody_waits_any_more_uses_up_no_turn() -> None:
    backend = Slots()
    async with Batcher(backend, BatchLimits(8, 64), group=lambda i: i) as batcher:
        (running,) = await submitted(batcher, [0])
        gone, stays = await submitted(batcher, [1, 2])
        gone.cancel()
        await finished(backend, [running, stays])
    assert backend.batches == [[0], [2]]


async def test_a_backend_that_returns_too_few_outcomes_fails_its_batch() -> None:
    async def run(items: Sequence[int]) -> Sequence[int]:
        return items[:-1]

    async with Batcher(run, LIMITS) as batcher:
        outcomes = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["1 outcomes for a batch of 2 items"] * 2


# Held back until full or old


HOLDING = BatchLimits(batch_items=3, queue_items=64, batch_cost=10, max_wait_seconds=60)


async def test_a_batch_is_held_back_until_it_is_full() -> None:
    backend = Backend()
    async with Batcher(backend, HOLDING, backends=lambda: 2) as batcher:
        tasks = await submitted(batcher, [1, 2])
        assert (backend.batches, batcher.queued) == ([], 2)
        tasks += await submitted(batcher, [3])
        assert [(await task).value for task in tasks] == [2, 4, 6]
    assert backend.batches == [[1, 2, 3]]


async def test_a_batch_is_full_by_cost_too() -> None:
    backend = Backend()
    async with Batcher(backend, HOLDING, cost=float) as batcher:
        await asyncio.gather(batcher.submit(4), batcher.submit(6))
    assert backend.batches == [[4, 6]]


async def test_a_held_back_batch_leaves_when_its_oldest_item_is_old() -> None:
    seen = Seen()
    limits = BatchLimits(batch_items=3, queue_items=64, max_wait_seconds=0.01)
    backend = Backend()
    async with Batcher(backend, limits, watch=seen) as batcher:
        first, second = asyncio.ensure_future(batcher.submit(1)), asyncio.ensure_future(batcher.submit(2))
        assert (await first).value == 2
        assert second.done()
        ((items, waited),) = seen.batches
        assert items == 2
        assert waited >= limits.max_wait_seconds
    assert backend.batches == [[1, 2]]


async def test_groups_are_held_back_apart_and_a_full_one_overtakes() -> None:
    backend = Backend()
    async with Batcher(backend, HOLDING, group=lambda i: i // 10) as batcher:
        tasks = await submitted(batcher, [1, 21, 11, 12, 13])
        assert (backend.batches, batcher.queued) == ([[11, 12, 13]], 2)
    assert backend.batches == [[11, 12, 13], [1], [21]]  # the others left with the context, at once
    assert all(task.done() for task in tasks)


async def test_every_held_back_group_leaves_in_its_own_time() -> None:
    backend = Backend()
    limits = BatchLimits(batch_items=3, queue_items=64, max_wait_seconds=0.005)
    async with Batcher(backend, limits, group=lambda i: i) as batcher:
        assert [s.value for s in await asyncio.gather(*(batcher.submit(i) for i in range(4)))] == [0, 2, 4, 6]
    assert backend.batches == [[0], [1], [2], [3]]


# What cannot be served in time is refused at once, by the measured rate


async def measured(batcher: Batcher[int, int], backend: Slots) -> list[asyncio.Task[Served[int]]]:
    """Tasks of `batcher`, whose batches hold one item, after a second one has had to wait 50 ms or more for the first:
    60 wait now."""
    tasks = await submitted(batcher, [1, 2])
    assert batcher.expected_wait() is None
    time.sleep(0.05)  # noqa: ASYNC251  # a backend that takes that long
    backend.finish()
    await settle()
    assert backend.batches == [[1], [2]]
    return tasks + await submitted(batcher, range(100, 160))


async def test_who_cannot_be_served_in_time_is_told_so_at_once() -> None:
    backend = Slots()
    async with Batcher(backend, BatchLimits(1, 64)) as batcher:
        assert batcher.expected_wait() == 0
        tasks = await measured(batcher, backend)
        wait = batcher.expected_wait()
        assert wait is not None
        assert wait >= 60 * 0.05
        with pytest.raises(DeadlineExceeded, match="of work is waiting"):
            await batcher.submit(9, deadline=time.monotonic() + wait * 0.9)
        tasks.append(asyncio.ensure_future(batcher.submit(10, deadline=time.monotonic() + wait + 60)))
        await finished(backend, tasks)
        assert batcher.expected_wait() == 0
    assert [9] not in backend.batches


@pytest.mark.parametrize(
    "limits",
    [
        BatchLimits(1, 64, queue_seconds=1e-6),
        BatchLimits(1, queue_items=5),
        BatchLimits(1, queue_items=64, queue_cost=5.5),
    ],
    ids=["seconds", "items", "cost"],
)
async def test_a_refusal_says_when_to_come_back_by_the_measured_rate(limits: BatchLimits) -> None:
    backend = Slots()
    async with Batcher(backend, limits) as batcher:
        tasks = await submitted(batcher, [1, 2])
        time.sleep(0.002)  # noqa: ASYNC251  # a backend that takes that long
        backend.finish()
        await settle()
        while True:
            wait = batcher.expected_wait()
            extra = asyncio.ensure_future(batcher.submit(len(tasks)))
            await settle()
            if extra.done():
                break
            tasks.append(extra)
        with pytest.raises(Overloaded) as refusal:
            await extra
        assert refusal.value.retry_after_seconds == wait
        assert wait is not None
        assert wait > 0
        await finished(backend, tasks)


async def test_one_item_may_cost_more_than_the_queue_when_it_is_alone() -> None:
    backend = Slots()
    async with Batcher(backend, BatchLimits(8, 64, queue_cost=10), cost=float) as batcher:
        tasks = await submitted(batcher, [1])
        tasks += await submitted(batcher, [50])
        assert batcher.queued_cost == 50
        with pytest.raises(Overloaded):
            await batcher.submit(1)
        await finished(backend, tasks)
        assert batcher.queued_cost == 0


async def test_the_watch_sees_every_item_once_however_it_ended() -> None:
    seen, backend = Seen(), Slots()
    limits = BatchLimits(batch_items=1, queue_items=3)
    batcher: Batcher[int, int]
    async with Batcher(backend, limits, watch=seen) as batcher:
        first = await submitted(batcher, [1])
        waiting = await submitted(batcher, [2, 3, 4])
        with pytest.raises(Overloaded):
            await batcher.submit(5)
        waiting[2].cancel()
        await settle()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(6, deadline=time.monotonic() - 1)
        assert (seen.served, seen.dropped) == (0, ["overloaded", "cancelled", "deadline"])
        assert seen.never_left == 1  # the others were never let in
        first[0].cancel()  # it had reached the backend: it was served, as far as it went
        await settle()
        assert seen.served == 1
        await finished(backend, waiting)
    with pytest.raises(Draining):
        await batcher.submit(7)
    assert seen.dropped == ["overloaded", "cancelled", "deadline", "draining"]
    assert (seen.served, seen.never_left, [items for items, _ in seen.batches]) == (3, 1, [1, 1, 1])


async def test_a_batch_runs_in_nobodys_context() -> None:
    whose: ContextVar[int | None] = ContextVar("whose", default=None)
    seen_in_backend: list[int | None] = []
    seen_when_served: list[int | None] = []

    async def backend(items: Sequence[int]) -> Sequence[int]:
        seen_in_backend.append(whose.get())
        return items

    class Watch(Seen):
        def item_ended(self, arrived: float, left: float | None) -> None:
            super().item_ended(arrived, left)
            seen_when_served.append(whose.get())

    async def submit(batcher: Batcher[int, int], item: int) -> None:
        whose.set(item)
        await batcher.submit(item)

    batcher: Batcher[int, int]
    async with Batcher(backend, BatchLimits(batch_items=8, queue_items=8), watch=Watch()) as batcher:
        await asyncio.gather(submit(batcher, 1), submit(batcher, 2))
    assert seen_in_backend == [None]
    assert seen_when_served == [1, 2]
