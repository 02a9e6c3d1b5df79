"""The model service's metrics, over its real batcher and generator and the simulated models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.batching import BatchLimits
from app.errors import Overloaded
from app.merging import MergingEncoder
from app_llm.generator import BatchedGenerator
from app_llm.instrumented import InstrumentedEncoder, InstrumentedGenerator, Metrics
from app_llm.settings import Settings
from app_llm.simulated import HashEncoder, SimulatedEngine
from contracts import telemetry
from contracts.telemetry import Metric
from contracts.types import Delta, Encoding, Prompt, Sampling
from tests.support.scraping import faults
from tests.unit.timers import Timers

NEVER = 3600.0
ANSWER_TOKENS = 5


class Service:
    """A generator and an encoder with their metrics in a registry."""

    def __init__(self, encoder: HashEncoder | None = None, **settings: object) -> None:
        quick = {
            "simulated_first_token_seconds": 0,
            "simulated_token_seconds": 0,
            "simulated_answer_tokens": ANSWER_TOKENS,
            "simulated_sequences": 3,
        }
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        limits = BatchLimits(batch_items=8, queue_items=8, batch_cost=16)
        self.encoder = MergingEncoder(
            InstrumentedEncoder(encoder or HashEncoder(4), self.metrics),
            slice_texts=4,
            limits=limits,
            watch=self.metrics.encoding,
        )
        engine = SimulatedEngine(Settings(**{**quick, **settings}))  # type: ignore[arg-type]
        batched = BatchedGenerator(engine, prompts_max=8)
        self.metrics.watch(batched, self.encoder)
        self.generator = InstrumentedGenerator(batched, self.metrics)

    def value(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        found = self.registry.get_sample_value(metric.name + suffix, labels)
        assert found is not None
        return found

    @property
    def ended(self) -> dict[str, float]:
        counts = {reason: self.value(telemetry.PROMPTS_ENDED, reason=reason) for reason in telemetry.PROMPT_REASONS}
        return {reason: count for reason, count in counts.items() if count}


def prompts(count: int, **details: object) -> list[Prompt]:
    return [Prompt(f"p{i}", text=f"prompt {i}", **details) for i in range(count)]  # type: ignore[arg-type]


async def run(service: Service, batch: Sequence[Prompt]) -> list[Delta]:
    return [delta async for frame in service.generator.generate(batch) for delta in frame.deltas]


def test_everything_is_there_before_the_first_request() -> None:
    service = Service()
    own = [metric for metric in telemetry.METRICS if metric.services == (telemetry.APP_LLM,)]
    shared = [telemetry.BATCH_ITEMS, telemetry.BATCH_WAIT_SECONDS, telemetry.QUEUE_ITEMS, telemetry.QUEUE_ITEMS_MAX]
    wanted = [metric for metric in own + shared if metric not in telemetry.GPU]
    assert len(wanted) == 14
    assert faults(generate_latest(service.registry).decode(), wanted) == []
    assert service.value(telemetry.PROMPTS_AT_ONCE) == 3
    assert service.value(telemetry.QUEUE_ITEMS_MAX, kind="encode") == 8


async def test_each_way_to_end_has_its_reason() -> None:
    service = Service(context_tokens=20)
    long = Prompt("long", text="word " * 50)
    short = Prompt("short", text="words", sampling=Sampling(max_tokens=2))
    deltas = await run(service, [*prompts(3), long, short])
    assert service.ended == {"stop": 3, "length": 1, "refused": 1}
    assert service.value(telemetry.LLM_TOKENS) == sum(delta.tokens for delta in deltas) == 3 * ANSWER_TOKENS + 2
    assert service.value(telemetry.PROMPTS_HELD) == 0


async def test_prompts_that_fail_or_run_out_of_time(timers: Timers) -> None:
    failing = Service(simulated_failure_rate=1)
    await run(failing, prompts(3))
    assert failing.ended == {"error": 3}
    late = Service(simulated_token_seconds=NEVER)
    running = asyncio.create_task(run(late, prompts(2, timeout_seconds=60)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert late.value(telemetry.LLM_TOKENS) == 2
    timers.pass_by(60)
    await running
    assert late.ended == {"timeout": 2}
    assert late.value(telemetry.LLM_TOKENS) == 2
    assert (failing.value(telemetry.PROMPTS_HELD), late.value(telemetry.PROMPTS_HELD)) == (0, 0)


async def test_half_of_the_prompts_are_aborted_and_then_the_caller_leaves() -> None:
    service = Service(simulated_token_seconds=NEVER)
    batch = prompts(8)
    ended = 0
    async with aclosing(service.generator.generate(batch)) as frames:
        await anext(frames)
        assert service.value(telemetry.PROMPTS_HELD) == 8
        await service.generator.abort([prompt.request_id for prompt in batch[:4]])
        async for frame in frames:
            ended += sum(delta.finish_reason == "abort" for delta in frame.deltas)
            if ended == 4:
                break
        assert service.ended == {"abort": 4}
        assert service.value(telemetry.PROMPTS_HELD) == 4
    assert service.ended == {"abort": 8}
    assert service.value(telemetry.PROMPTS_HELD) == 0


async def test_what_was_never_accepted_has_not_ended() -> None:
    service = Service(simulated_token_seconds=NEVER)
    with pytest.raises(Overloaded):
        await run(service, prompts(9))
    assert service.ended == {}
    assert service.value(telemetry.PROMPTS_HELD) == 0


async def test_a_frame_is_counted_once_however_it_ends() -> None:
    service = Service()
    async with aclosing(service.generator.generate(prompts(1))) as frames:
        async for frame in frames:
            if any(delta.finish_reason for delta in frame.deltas):
                break  # with its last frame, but before the stream's end
    assert service.ended == {"stop": 1}


async def test_texts_are_counted_as_they_are_encoded() -> None:
    service = Service()
    async with service.encoder.batcher:
        calls = [service.encoder.encode([f"text number {i}", "two words"]) for i in range(3)]
        await asyncio.gather(*calls, service.encoder.encode(["alone"] * 9))
    assert service.value(telemetry.ENCODED_TEXTS) == 3 * 2 + 9
    assert service.value(telemetry.ENCODED_TOKENS) == 3 * 5 + 9
    batches = service.value(telemetry.BATCH_ITEMS, "_count", kind="encode")
    assert batches == service.value(telemetry.ENCODE_SECONDS, "_count")
    assert batches == service.value(telemetry.BATCH_WAIT_SECONDS, "_count", kind="encode")
    # Four calls in the first batch; the big one comes back for its second and third slice.
    assert service.value(telemetry.BATCH_ITEMS, "_sum", kind="encode") == 4 + 2


class HeldUp(HashEncoder):
    """Waits until it may go on; then fails, if it is to."""

    def __init__(self) -> None:
        super().__init__(4)
        self.go_on = asyncio.Event()
        self.fails = False

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        await self.go_on.wait()
        if self.fails:
            raise RuntimeError("no vectors today")
        return await super().encode(texts, timeout_seconds=timeout_seconds)


async def test_the_queue_fills_and_is_empty_again_after_a_failure_and_after_callers_have_left() -> None:
    encoder = HeldUp()
    service = Service(encoder)
    async with service.encoder.batcher:
        for fails in (True, False):
            encoder.fails = fails
            encoder.go_on.clear()
            running = asyncio.create_task(service.encoder.encode(["first"]))
            await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(service.encoder.encode(["next"])) for _ in range(5)]
            await asyncio.sleep(0)
            assert service.value(telemetry.QUEUE_ITEMS, kind="encode") == 5
            for task in waiting[:3]:
                task.cancel()
            await asyncio.gather(*waiting[:3], return_exceptions=True)
            assert service.value(telemetry.QUEUE_ITEMS, kind="encode") == 2
            encoder.go_on.set()
            outcomes = await asyncio.gather(running, *waiting[3:], return_exceptions=True)
            assert {isinstance(outcome, RuntimeError) for outcome in outcomes} == {fails}
            assert service.value(telemetry.QUEUE_ITEMS, kind="encode") == 0
    assert service.value(telemetry.ENCODED_TEXTS) == 3, "only what has been encoded"
