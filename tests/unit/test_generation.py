"""Streams told apart, left, and ended, over an engine in the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import pytest
from pydantic import SecretStr

from app.batching import BatchLimits
from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    Overloaded,
    PharosError,
    PromptTooLong,
    QuotaExceeded,
)
from app.generation import GenerationPool, TokenStream, error_of
from app.quota import ApiKey, Quota
from app.terms import Terms
from app_llm.generator import BatchedGenerator
from app_llm.settings import Settings
from app_llm.simulated import SimulatedEngine
from contracts.types import Delta, Frame, Prompt, PromptProblem, Sampling, Usage
from tests.unit.timers import Timers

LIMITS = BatchLimits(batch_items=8, queue_items=64)


def engine(**settings: float) -> BatchedGenerator:
    quick = {"simulated_first_token_seconds": 0.0, "simulated_token_seconds": 0.001, "simulated_answer_tokens": 500}
    return BatchedGenerator(SimulatedEngine(Settings(**{**quick, **settings})), prompts_max=64)  # type: ignore[arg-type]


def prompt(name: str, text: str = "some words", max_tokens: int = 5) -> Prompt:
    return Prompt(name, text=text, sampling=Sampling(max_tokens=max_tokens))


async def text_of(stream: TokenStream) -> str:
    text = ""
    while True:
        delta = await stream.read()
        text += delta.text
        if delta.finish_reason is not None:
            return text


async def eventually_free(generator: BatchedGenerator) -> None:
    for _ in range(500):
        if generator.held == 0:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{generator.held} prompts are still held")


async def test_each_stream_gets_its_own_tokens() -> None:
    async with GenerationPool(engine(), LIMITS) as pool:
        opened = await asyncio.gather(*(pool.open(prompt(f"p{i}", f"text {i}", 3 + i)) for i in range(4)))
        texts = await asyncio.gather(*(text_of(served.value) for served in opened))
    assert [len(text.split()) for text in texts] == [3, 4, 5, 6]
    assert len(set(texts)) == 4


async def test_a_refused_prompt_fails_alone() -> None:
    async with GenerationPool(engine(), LIMITS) as pool:
        good, bad = await asyncio.gather(
            pool.open(prompt("good")), pool.open(prompt("bad", "word " * 5000)), return_exceptions=True
        )
        assert isinstance(bad, PromptTooLong)
        assert not isinstance(good, BaseException)
        assert len((await text_of(good.value)).split()) == 5


async def test_leaving_frees_the_engine_while_others_go_on() -> None:
    generator = engine()
    async with GenerationPool(generator, LIMITS) as pool:
        stays, goes = await asyncio.gather(
            pool.open(prompt("stays", max_tokens=100)), pool.open(prompt("goes", max_tokens=500))
        )
        await goes.value.read()
        pool.leave(goes.value)
        assert len((await text_of(stays.value)).split()) == 100
        await eventually_free(generator)


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_that_leaves_while_submitting_leaves_nothing_behind(turns: int) -> None:
    """Cancelled at each step between the queue and the first token, alone and with another in its batch."""
    for companions in (0, 1):
        generator = engine()
        async with GenerationPool(generator, LIMITS) as pool:
            leaving = asyncio.ensure_future(pool.open(prompt("leaving", max_tokens=500)))
            others = [asyncio.ensure_future(pool.open(prompt(f"o{i}", max_tokens=3))) for i in range(companions)]
            for _ in range(turns):
                await asyncio.sleep(0)
            if leaving.done():
                pool.leave(leaving.result().value)
            leaving.cancel()
            for other in others:
                assert len((await text_of((await other).value)).split()) == 3
            await eventually_free(generator)


async def test_a_slow_reader_gets_one_merged_delta() -> None:
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        stream = (await pool.open(prompt("p"))).value
        for _ in range(19):
            told.say(Delta("p", "word ", 1))
        told.say(end("p"))
        await told.over.wait()
        delta = await stream.read()
    assert (delta.text.split(), delta.tokens, delta.finish_reason) == (["word"] * 20, 20, "stop")


async def test_a_stream_that_breaks_off_is_an_error_after_what_came() -> None:
    class Broken:
        async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
            yield Frame()
            async for frame in engine().generate(prompts):
                yield frame
                if frame.deltas:
                    return

        async def abort(self, request_ids: Sequence[str]) -> None: ...

    async with GenerationPool(Broken(), LIMITS) as pool:
        stream = (await pool.open(prompt("p"))).value
        assert (await stream.read()).tokens >= 1
        with pytest.raises(ModelServiceFailed):
            await stream.read()


async def test_leaving_the_pool_ends_running_streams() -> None:
    generator = engine(simulated_token_seconds=60)
    async with GenerationPool(generator, LIMITS) as pool:
        await pool.open(prompt("p"))
    await eventually_free(generator)


class Told:
    """A generator whose prompts say what a test tells them; an abort ends them."""

    def __init__(self) -> None:
        self.batches: list[list[Prompt]] = []
        self.aborted: list[list[str]] = []
        self.running: set[str] = set()
        self.refuses: set[str] = set()
        self.over = asyncio.Event()
        self._says: dict[str, asyncio.Queue[Delta | PharosError]] = {}

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        self.batches.append(list(prompts))
        says: asyncio.Queue[Delta | PharosError] = asyncio.Queue()
        names = [prompt.request_id for prompt in prompts]
        left = [name for name in names if name not in self.refuses]
        self._says.update(dict.fromkeys(left, says))
        self.running |= set(left)
        try:
            yield Frame(tuple(problem(name, 413) for name in names if name in self.refuses))
            while left:
                said = await says.get()
                if isinstance(said, PharosError):
                    raise said
                if said.finish_reason is not None:
                    left.remove(said.request_id)
                    self.running.discard(said.request_id)
                yield Frame((said,))
        finally:
            self.over.set()
            self.running -= set(names)

    async def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted.append(list(request_ids))
        for name in request_ids:
            self.say(Delta(name, finish_reason="abort", usage=Usage(10, 5)))

    def say(self, delta: Delta) -> None:
        self._says[delta.request_id].put_nowait(delta)

    def fail(self, name: str) -> None:
        self._says[name].put_nowait(ModelServiceDown("gone"))


def problem(name: str, status: int) -> Delta:
    return Delta(name, finish_reason="error", error=PromptProblem(status, "some_problem", "it does not fit"))


def end(name: str) -> Delta:
    return Delta(name, "word", 1, "stop", Usage(40, 60))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Deadlines


async def test_a_stream_whose_time_runs_out_ends_with_that_and_is_aborted(timers: Timers) -> None:
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        stream = (await pool.open(prompt("p"), Terms(deadline=time.monotonic() + 60))).value
        told.say(Delta("p", "word", 1))
        assert (await stream.read()).tokens == 1
        timers.pass_by(60)
        with pytest.raises(DeadlineExceeded):
            await stream.read()
        await turns()
        assert (told.aborted, told.running) == ([["p"]], set())
        pool.leave(stream)
        await turns()
        assert told.aborted == [["p"]]


async def test_a_reader_that_looks_late_still_learns_that_the_time_ran_out(timers: Timers) -> None:
    """By then the abort's own end has come."""
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        stream = (await pool.open(prompt("p"), Terms(deadline=time.monotonic() + 60))).value
        told.say(Delta("p", "word", 1))
        await turns()
        timers.pass_by(60)
        await told.over.wait()
        await turns()
        delta = await stream.read()
        assert (delta.text, delta.finish_reason) == ("word", None)
        with pytest.raises(DeadlineExceeded):
            await stream.read()


async def test_the_model_service_learns_how_much_time_is_left() -> None:
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        opened = [pool.open(prompt("timed"), Terms(deadline=time.monotonic() + 60)), pool.open(prompt("free"))]
        streams = [served.value for served in await asyncio.gather(*opened)]
        ((timed, free),) = told.batches
        assert timed.timeout_seconds is not None
        assert 0 < timed.timeout_seconds <= 60
        assert free.timeout_seconds is None
        for stream in streams:
            pool.leave(stream)


async def test_a_deadline_that_passes_in_the_queue_costs_the_model_service_nothing() -> None:
    told = Told()
    async with GenerationPool(told, LIMITS, room=lambda: 0) as pool:
        with pytest.raises(DeadlineExceeded):
            await pool.open(prompt("p"), Terms(deadline=time.monotonic() + 0.01))
    assert told.batches == []


async def test_a_stream_that_ended_in_time_is_left_alone_when_the_deadline_comes(timers: Timers) -> None:
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        stream = (await pool.open(prompt("p"), Terms(deadline=time.monotonic() + 60))).value
        told.say(end("p"))
        await turns()
        timers.pass_by(60)
        await turns()
        assert (await stream.read()).finish_reason == "stop"
        assert told.aborted == []


# Room


async def test_never_more_prompts_are_sent_than_there_is_room_for_and_each_end_is_refilled() -> None:
    told = Told()
    room = 3
    async with GenerationPool(told, LIMITS, room=lambda: room - len(told.running)) as pool:
        opening = [asyncio.ensure_future(pool.open(prompt(f"p{i}"))) for i in range(10)]
        order: list[str] = []
        while len(order) < 10:
            await turns()
            assert len(told.running) == min(room, 10 - len(order))
            order.append(min(told.running, key=lambda name: int(name[1:])))
            told.say(end(order[-1]))
        streams = [served.value for served in await asyncio.gather(*opening)]
        assert [(await stream.read()).finish_reason for stream in streams] == ["stop"] * 10
    assert order == [f"p{i}" for i in range(10)]
    assert max(len(batch) for batch in told.batches) == room


async def test_room_that_appears_elsewhere_is_used_when_it_is_told() -> None:
    told = Told()
    room = 0
    async with GenerationPool(told, LIMITS, room=lambda: room - len(told.running)) as pool:
        opening = asyncio.ensure_future(pool.open(prompt("p")))
        await turns()
        assert told.batches == []
        room = 1  # a replica has come
        pool.wake()
        pool.leave((await opening).value)


# Leaving


async def test_a_burst_of_leavers_is_one_call() -> None:
    told = Told()
    async with GenerationPool(told, LIMITS) as pool:
        opened = await asyncio.gather(*(pool.open(prompt(f"p{i}")) for i in range(50)))
        for served in opened:
            pool.leave(served.value)
            pool.leave(served.value)  # twice is once
        await turns()
        assert [sorted(batch) for batch in told.aborted] == [sorted(f"p{i}" for i in range(50))]
        assert told.running == set()


async def test_a_model_service_that_is_down_when_a_caller_leaves_is_no_error() -> None:
    class Down(Told):
        async def abort(self, request_ids: Sequence[str]) -> None:
            await super().abort(request_ids)
            raise ModelServiceDown("gone")

    told = Down()
    async with GenerationPool(told, LIMITS) as pool:
        pool.leave((await pool.open(prompt("p"))).value)
        await turns()
    assert told.aborted == [["p"]]


# Quotas


BUDGET = 1000
"""Tokens a minute."""


def with_quota() -> tuple[Quota, Terms]:
    """No time passes for it, so that nothing flows in."""
    quota = Quota("team", ApiKey(key=SecretStr("a-secret-key"), tokens_per_minute=BUDGET), lambda: 0.0)
    return quota, Terms(quota=quota)


def charged(quota: Quota) -> float:
    """Tokens that are missing from the budget."""
    try:
        quota.reserve_tokens(BUDGET).settle(0)
    except QuotaExceeded as refusal:
        return (refusal.retry_after_seconds or 0.0) * BUDGET / 60
    return 0.0


RESERVED = 502
"""What `prompt(max_tokens=500)` may cost: "some words" is 2 tokens by the rule of thumb."""


def about(tokens: int) -> object:
    return pytest.approx(tokens, abs=0.001)


async def test_a_stream_costs_its_reservation_while_it_runs_and_what_it_used_in_the_end() -> None:
    told = Told()
    quota, terms = with_quota()
    async with GenerationPool(told, LIMITS) as pool:
        await pool.open(prompt("p", max_tokens=500), terms)
        assert charged(quota) == about(RESERVED)
        with pytest.raises(QuotaExceeded):
            await pool.open(prompt("q", max_tokens=500), terms)
        told.say(end("p"))
        await turns()
        assert charged(quota) == about(100)
    assert [len(batch) for batch in told.batches] == [1]


async def test_a_stream_that_is_left_costs_what_it_had_used() -> None:
    told = Told()
    quota, terms = with_quota()
    async with GenerationPool(told, LIMITS) as pool:
        pool.leave((await pool.open(prompt("p", max_tokens=500), terms)).value)
        await turns()
        assert charged(quota) == about(15)


async def test_a_refused_prompt_costs_nothing() -> None:
    told = Told()
    told.refuses = {"p"}
    quota, terms = with_quota()
    async with GenerationPool(told, LIMITS) as pool:
        with pytest.raises(PromptTooLong):
            await pool.open(prompt("p", max_tokens=500), terms)
        assert charged(quota) == about(0)


async def test_a_prompt_that_never_left_the_queue_costs_nothing() -> None:
    quota, terms = with_quota()
    async with GenerationPool(Told(), LIMITS, room=lambda: 0) as pool:
        opening = asyncio.ensure_future(pool.open(prompt("p", max_tokens=500), terms))
        await turns()
        assert charged(quota) == about(RESERVED)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert charged(quota) == about(0)


async def test_a_stream_that_fails_costs_nothing() -> None:
    told = Told()
    quota, terms = with_quota()
    async with GenerationPool(told, LIMITS) as pool:
        stream = (await pool.open(prompt("p", max_tokens=500), terms)).value
        told.fail("p")
        with pytest.raises(ModelServiceDown):
            await stream.read()
        assert charged(quota) == about(0)


async def test_what_the_queue_refuses_costs_nothing() -> None:
    quota, terms = with_quota()
    limits = BatchLimits(batch_items=1, queue_items=1)
    async with GenerationPool(Told(), limits, room=lambda: 0) as pool:
        waiting = asyncio.ensure_future(pool.open(prompt("p")))
        await turns()
        with pytest.raises(Overloaded):
            await pool.open(prompt("q", max_tokens=500), terms)
        assert charged(quota) == about(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (413, "prompt_too_long", PromptTooLong),
        (422, "invalid_prompt", InvalidRequest),
        (504, "deadline_exceeded", DeadlineExceeded),
        (503, "overloaded", Overloaded),
        (503, "model_service_down", ModelServiceDown),
        (500, "engine_failed", ModelServiceFailed),
    ],
)
def test_a_prompts_problem_is_the_gateways_error(status: int, code: str, error: type[PharosError]) -> None:
    made = error_of(PromptProblem(status, code, "why"))
    assert type(made) is error
    assert made.detail == "why"
