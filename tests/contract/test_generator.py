"""Every implementation of the `Generator` port behaves the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest

from app.replicated import ReplicatedGenerator
from app_llm.generator import BatchedGenerator
from app_llm.settings import Settings
from app_llm.simulated import SimulatedEngine
from app_llm.traced import TracedGenerator
from contracts.ports import Generator
from contracts.types import Delta, Message, Prompt, Sampling
from observability.tracing import Tracing
from tests.support import processes


@pytest.fixture(params=["simulated", "traced", "http-simulated", "http-vllm"])
async def generator(request: pytest.FixtureRequest) -> AsyncIterator[Generator]:
    if request.param in ("simulated", "traced"):
        settings = Settings(simulated_first_token_seconds=0.02, simulated_token_seconds=0.01)
        batched = BatchedGenerator(SimulatedEngine(settings), prompts_max=64)
        yield batched if request.param == "simulated" else TracedGenerator(batched, Tracing(), "simulated")
        return
    service = request.getfixturevalue("simulated" if request.param == "http-simulated" else "models")
    async with processes.replicas(service.url) as replicas:
        yield ReplicatedGenerator(replicas)


def prompt(request_id: str, content: str = "Tell me about the sea.", max_tokens: int = 8) -> Prompt:
    return Prompt(request_id, (Message("user", content),), sampling=Sampling(max_tokens=max_tokens))


async def deltas(generator: Generator, prompts: Sequence[Prompt]) -> dict[str, list[Delta]]:
    found: dict[str, list[Delta]] = defaultdict(list)
    async for frame in generator.generate(prompts):
        for delta in frame.deltas:
            found[delta.request_id].append(delta)
    return found


async def test_each_prompt_ends_once_with_its_usage(generator: Generator) -> None:
    found = await deltas(generator, [prompt(f"p{i}", max_tokens=3 + i) for i in range(4)])
    assert set(found) == {"p0", "p1", "p2", "p3"}
    for i, name in enumerate(sorted(found)):
        *earlier, last = found[name]
        assert all(delta.finish_reason is None for delta in earlier)
        assert last.finish_reason in ("length", "stop")
        assert last.usage is not None
        assert last.usage.completion_tokens == sum(delta.tokens for delta in found[name]) <= 3 + i
        assert last.usage.prompt_tokens > 0


async def test_tokens_come_in_several_frames(generator: Generator) -> None:
    assert len((await deltas(generator, [prompt("p", max_tokens=8)]))["p"]) >= 3


async def test_the_first_frame_comes_before_any_token(generator: Generator) -> None:
    frames = generator.generate([prompt("p")])
    first = await anext(frames)
    await frames.aclose()
    assert first.deltas == ()


async def test_the_same_prompt_gives_the_same_answer(generator: Generator) -> None:
    found = await deltas(generator, [prompt("a"), prompt("b")])
    assert "".join(d.text for d in found["a"]) == "".join(d.text for d in found["b"]) != ""


async def test_raw_text_runs_without_a_template(generator: Generator) -> None:
    plain = Prompt("plain", text="one two three", sampling=Sampling(max_tokens=2))
    found = await deltas(generator, [plain, prompt("chat", "one two three", max_tokens=2)])
    plain_usage, chat_usage = found["plain"][-1].usage, found["chat"][-1].usage
    assert plain_usage is not None
    assert chat_usage is not None
    assert plain_usage.prompt_tokens <= chat_usage.prompt_tokens


async def test_one_prompt_too_long_fails_alone_and_says_by_how_much(generator: Generator) -> None:
    found = await deltas(generator, [prompt("good"), prompt("bad", "word " * 5000)])
    assert found["good"][-1].finish_reason in ("length", "stop")
    (refusal,) = found["bad"]
    assert refusal.finish_reason == "error"
    assert refusal.error is not None
    assert refusal.error.status == 413
    assert "by at least" in refusal.error.detail


async def test_a_batch_of_only_refusals_is_told_apart_too(generator: Generator) -> None:
    found = await deltas(generator, [prompt("a", "word " * 5000), prompt("b", "word " * 6000)])
    assert {name: ds[-1].error.status for name, ds in found.items() if ds[-1].error} == {"a": 413, "b": 413}


async def test_an_abort_before_the_first_token_ends_the_prompt(generator: Generator) -> None:
    frames = generator.generate([prompt("p", max_tokens=64)])
    await anext(frames)
    await generator.abort(["p"])
    rest = [delta async for frame in frames for delta in frame.deltas]
    assert rest[-1].finish_reason == "abort"


async def test_abort_ends_one_prompt_and_not_the_others(generator: Generator) -> None:
    ends: dict[str, str | None] = {}
    aborted = False
    async for frame in generator.generate([prompt("stay", max_tokens=24), prompt("go", max_tokens=24)]):
        for delta in frame.deltas:
            if delta.request_id == "go" and delta.tokens and not aborted:
                aborted = True
                await generator.abort(["go", "never heard of"])
            if delta.finish_reason is not None:
                ends[delta.request_id] = delta.finish_reason
    assert ends["go"] == "abort"
    assert ends["stay"] in ("length", "stop")
