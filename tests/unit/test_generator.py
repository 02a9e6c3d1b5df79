"""The model service's generator: deadlines of prompts, and work that cannot be done in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
import pytest

from app.errors import Overloaded
from app_llm.generator import Accepted, BatchedGenerator, Piece
from contracts.types import Delta, Prompt
from observability.context import current
from observability.log_lines import capture
from tests.unit.timers import Timers


class HandEngine:
    """Runs `at_once` prompts; each says a token when it begins and ends when its name is let go."""

    def __init__(self, at_once: int = 2) -> None:
        self.at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._ends: dict[str, asyncio.Event] = {}
        self.accepted: list[str] = []
        self.begun: list[str] = []
        self.running: set[str] = set()
        self.freed = asyncio.Event()

    async def accept(self, prompt: Prompt) -> Accepted:
        self.accepted.append(prompt.request_id)
        return Accepted(7, self._run(prompt.request_id))

    async def _run(self, name: str) -> AsyncGenerator[Piece, None]:
        async with self._slots:
            self.begun.append(name)
            self.running.add(name)
            try:
                yield Piece("a", 1)
                await self._end_of(name).wait()
                yield Piece("z", 1, "stop")
            finally:
                self.running.discard(name)
                self.freed.set()

    def let_go(self, name: str) -> None:
        self._end_of(name).set()

    def _end_of(self, name: str) -> asyncio.Event:
        return self._ends.setdefault(name, asyncio.Event())


def prompt(name: str, timeout_seconds: float | None = None) -> Prompt:
    return Prompt(name, text="some words", timeout_seconds=timeout_seconds)


def reading(generator: BatchedGenerator, prompts: Sequence[Prompt]) -> asyncio.Task[dict[str, list[Delta]]]:
    async def read() -> dict[str, list[Delta]]:
        found: dict[str, list[Delta]] = {p.request_id: [] for p in prompts}
        async for frame in generator.generate(prompts):
            for delta in frame.deltas:
                found[delta.request_id].append(delta)
        return found

    return asyncio.ensure_future(read())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def refused_as_late(deltas: list[Delta]) -> str:
    """The detail of the problem that is all that was said."""
    (only,) = deltas
    assert only.finish_reason == "error"
    assert only.error is not None
    assert (only.error.status, only.error.code) == (504, "deadline_exceeded")
    return only.error.detail


@pytest.mark.parametrize("seconds", [0.0, -1.0, -0.0])
async def test_a_prompt_that_comes_too_late_never_reaches_the_engine(seconds: float) -> None:
    engine = HandEngine()
    generator = BatchedGenerator(engine, prompts_max=8)
    found = reading(generator, [prompt("late", seconds), prompt("on-time", 60)])
    engine.let_go("on-time")
    assert "0.0 s left" in refused_as_late((await found)["late"])
    assert (await found)["on-time"][-1].finish_reason == "stop"
    assert engine.accepted == ["on-time"]
    assert generator.held == 0


async def test_a_batch_of_only_late_prompts_is_all_refusals() -> None:
    generator = BatchedGenerator(HandEngine(), prompts_max=8)
    found = await reading(generator, [prompt("p", -1), prompt("q", -1)])
    for deltas in found.values():
        refused_as_late(deltas)
    assert generator.held == 0


async def test_time_that_runs_out_while_the_prompt_waits_in_the_engine_ends_it() -> None:
    engine = HandEngine(at_once=1)
    generator = BatchedGenerator(engine, prompts_max=8)
    running = reading(generator, [prompt("running")])
    await turns()
    late = await reading(generator, [prompt("waiting", 0.01)])
    refused_as_late(late["waiting"])
    assert (engine.accepted, engine.begun) == (["running", "waiting"], ["running"])
    assert generator.held == 1
    engine.let_go("running")
    await running
    assert generator.held == 0


async def test_time_that_runs_out_mid_stream_ends_it_after_what_was_said_and_frees_its_slot(timers: Timers) -> None:
    engine = HandEngine()
    generator = BatchedGenerator(engine, prompts_max=8)
    found = reading(generator, [prompt("late", 60), prompt("goes-on")])
    await turns()
    assert engine.running == {"late", "goes-on"}
    timers.pass_by(60)
    await engine.freed.wait()
    assert engine.running == {"goes-on"}
    engine.let_go("goes-on")
    *said, last = (await found)["late"]
    assert [delta.text for delta in said] == ["a"]
    refused_as_late([last])
    assert (await found)["goes-on"][-1].finish_reason == "stop"
    assert generator.held == 0


async def test_a_deadline_that_is_met_changes_nothing(timers: Timers) -> None:
    engine = HandEngine()
    generator = BatchedGenerator(engine, prompts_max=8)
    found = reading(generator, [prompt("p", 60)])
    await turns()
    engine.let_go("p")
    assert (await found)["p"][-1].finish_reason == "stop"
    timers.pass_by(60)
    await turns()
    assert generator.held == 0


async def test_who_would_wait_longer_than_there_is_time_is_refused_by_the_measured_rate(timers: Timers) -> None:
    engine = HandEngine(at_once=1)
    generator = BatchedGenerator(engine, prompts_max=64)
    first = reading(generator, [prompt("p0"), prompt("p1")])
    await turns()
    time.sleep(0.02)  # noqa: ASYNC251  # an engine that takes that long
    engine.let_go("p0")
    await turns()
    assert engine.begun == ["p0", "p1"]
    waiting = reading(generator, [prompt(f"w{i}") for i in range(5)])
    await turns()
    # Five wait, at 20 ms each or more.
    hopeless = reading(generator, [prompt("hopeless", 0.05)])
    await turns()
    timers.pass_by(1)  # for one that was let in
    assert "It would wait" in refused_as_late((await hopeless)["hopeless"])
    hopeful = reading(generator, [prompt("hopeful", 60)])
    for name in ["p1", *(f"w{i}" for i in range(5)), "hopeful"]:
        engine.let_go(name)
    assert (await hopeful)["hopeful"][-1].finish_reason == "stop"
    await asyncio.gather(first, waiting)
    assert "hopeless" not in engine.accepted
    # Nobody waits now, so nobody is refused however little time there is.
    engine.let_go("again")  # by `timers` its deadline does not come before that
    assert (await reading(generator, [prompt("again", 0.05)]))["again"][-1].finish_reason == "stop"
    assert generator.held == 0


async def test_no_more_prompts_than_may_be_held_are_begun() -> None:
    engine = HandEngine()
    generator = BatchedGenerator(engine, prompts_max=2)
    running = reading(generator, [prompt("p")])
    await turns()
    with pytest.raises(Overloaded):
        await reading(generator, [prompt("q"), prompt("r")])
    assert generator.held == 1
    engine.let_go("p")
    await running
    assert generator.held == 0


async def test_closing_the_stream_frees_every_slot_at_once() -> None:
    engine = HandEngine()
    generator = BatchedGenerator(engine, prompts_max=8)
    async with aclosing(generator.generate([prompt("p"), prompt("q"), prompt("r", 60)])) as frames:
        await anext(frames)
        await anext(frames)
        assert engine.running == {"p", "q"}
    assert (engine.running, generator.held) == (set(), 0)


class FailingEngine(HandEngine):
    """Refuses to run what is called `bad`, and breaks off the rest."""

    async def accept(self, prompt: Prompt) -> Accepted:
        if prompt.request_id == "bad":
            raise RuntimeError("of the engine")
        return await super().accept(prompt)

    async def _run(self, name: str) -> AsyncGenerator[Piece, None]:
        yield Piece("a", 1)
        raise RuntimeError(f"of the engine, with {name}")


async def test_what_is_logged_of_a_prompt_is_in_its_own_requests_trace() -> None:
    trace_of: dict[str, str] = {}

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace_of[str(record.args[0])] = capture(record).context.trace_id  # type: ignore[index]

    batch = [
        msgspec.structs.replace(prompt(name), traceparent=f"00-{digit * 32}-{digit * 16}-01")
        for name, digit in (("bad", "a"), ("p", "b"), ("q", "c"))
    ]
    log, handler = logging.getLogger("app_llm.generator"), Handler()
    log.addHandler(handler)
    try:
        await reading(BatchedGenerator(FailingEngine(), 8), [*batch, prompt("untraced")])
    finally:
        log.removeHandler(handler)
    assert trace_of == {"bad": "a" * 32, "p": "b" * 32, "q": "c" * 32, "untraced": ""}
    assert current.get() is None
