"""Streams told apart, left, and ended, over an engine in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from app.batching import BatchLimits
from app.errors import ModelServiceFailed, PromptTooLong
from app.generation import GenerationPool, TokenStream
from app_llm.generator import BatchedGenerator
from app_llm.settings import Settings
from app_llm.simulated import SimulatedEngine
from contracts.types import Frame, Prompt, Sampling

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
    async with GenerationPool(engine(), LIMITS) as pool:
        stream = (await pool.open(prompt("p", max_tokens=20))).value
        await asyncio.sleep(0.5)  # a reader that is slower than 20 tokens of a millisecond
        delta = await stream.read()
    assert (delta.tokens, delta.finish_reason) == (20, "length")


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
