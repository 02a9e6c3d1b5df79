"""The batcher: what travels together, who waits, who is dropped, and that nothing is ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching import Batcher, BatchLimits
from app.errors import DeadlineExceeded, Draining, Overloaded

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


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.booleans()), min_size=1, max_size=40),
    batch_items=st.integers(1, 5),
    in_flight=st.integers(1, 3),
)
def test_every_item_has_exactly_one_outcome(
    items: list[tuple[int, int, bool]], batch_items: int, in_flight: int
) -> None:
    """Random arrivals, pauses and departures: each item that stays is served once, in order within its group."""

    async def scenario() -> None:
        seen: list[int] = []

        async def backend(batch: Sequence[int]) -> Sequence[int]:
            assert len(batch) <= batch_items
            assert len({items[i][1] for i in batch}) == 1
            seen.extend(batch)
            await asyncio.sleep(0)
            return [i * 2 for i in batch]

        batcher = Batcher(backend, BatchLimits(batch_items, 64, in_flight), group=lambda i: items[i][1])
        async with batcher:
            tasks = []
            for index, (pauses, _, leaves) in enumerate(items):
                task = asyncio.ensure_future(batcher.submit(index))
                tasks.append(task)
                for _ in range(pauses % 4):
                    await asyncio.sleep(0)
                if leaves:
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError)
                assert items[index][2]
            else:
                assert outcome.value == index * 2
        assert len(seen) == len(set(seen))
        for group in range(4):
            order = [i for i in seen if items[i][1] == group]
            assert order == sorted(order)
        assert batcher.queued == 0

    asyncio.run(scenario())
