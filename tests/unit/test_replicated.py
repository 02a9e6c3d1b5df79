"""One call over several replicas: what is tried again, where, and that every count of outstanding work returns."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    Overloaded,
    PharosError,
)
from app.replicated import ATTEMPTS, ReplicatedEncoder, ReplicatedGenerator, outstanding_tokens
from contracts.types import Delta, Frame, Message, Prompt, PromptProblem, Sampling
from tests.support.model_services import FakeService, Fleet, ended, frame, token

DOWN = ModelServiceDown("gone")
ELSEWHERE = [DOWN, ModelServiceFailed("nonsense"), Overloaded("busy")]
NOT_ELSEWHERE = [InvalidRequest("no"), DeadlineExceeded("late")]


@asynccontextmanager
async def entered(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet, ready; in the end nothing may be outstanding."""
    async with fleet.replicas:
        yield fleet
        assert fleet.outstanding == [(0, 0, 0)] * len(fleet.services)
        assert [service.streams for service in fleet.services.values()] == [0] * len(fleet.services)


def prompts(*names: str, timeout_seconds: float | None = None) -> list[Prompt]:
    return [Prompt(name, text="some words", timeout_seconds=timeout_seconds) for name in names]


async def deltas(generator: ReplicatedGenerator, asked: list[Prompt]) -> dict[str, list[Delta]]:
    found: dict[str, list[Delta]] = defaultdict(list)
    async for said in generator.generate(asked):
        for delta in said.deltas:
            found[delta.request_id].append(delta)
    return found


def ends(found: dict[str, list[Delta]]) -> dict[str, str | None]:
    """How each prompt ended; each did so exactly once, last."""
    for of_one in filter(None, found.values()):
        assert [delta.finish_reason is not None for delta in of_one].count(True) == 1
    return {name: of_one[-1].finish_reason for name, of_one in found.items() if of_one}


# Encoding


async def test_texts_go_where_the_fewest_are() -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet["a"].texts = 5
        encoding = await ReplicatedEncoder(fleet.replicas).encode(["x", "y"], timeout_seconds=9)
        fleet["a"].texts = 0
        assert encoding.vectors.shape == (2, 2)
        assert fleet.services["a"].encoded == []
        ((texts, seconds),) = fleet.services["b"].encoded
        assert texts == ["x", "y"]
        assert seconds is not None
        assert 0 < seconds <= 9


async def test_texts_are_counted_while_they_are_encoded() -> None:
    async with entered(Fleet("a")) as fleet:
        fleet.services["a"].waits = True
        encoding = asyncio.ensure_future(ReplicatedEncoder(fleet.replicas).encode(["x", "y", "z"]))
        await fleet.services["a"].began.wait()
        assert fleet["a"].texts == 3
        encoding.cancel()
        await asyncio.gather(encoding, return_exceptions=True)
        assert fleet["a"].texts == 0


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: error.code)
async def test_texts_that_fail_are_encoded_elsewhere(error: PharosError) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").fails = error
        fleet["a"].ejections = fleet["b"].failures = 1
        await ReplicatedEncoder(fleet.replicas).encode(["x"], timeout_seconds=9)
        assert (fleet["a"].failures, fleet["b"].failures) == (0 if isinstance(error, Overloaded) else 1, 0)
        (first,), (second,) = fleet.services["a"].encoded, fleet.services["b"].encoded
        assert first[1] is not None
        assert second[1] is not None
        assert second[1] < first[1]  # some of the time is gone


@pytest.mark.parametrize("error", NOT_ELSEWHERE, ids=lambda error: error.code)
async def test_what_no_other_replica_would_do_better_is_not_tried_there(error: PharosError) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").fails = error
        with pytest.raises(type(error)):
            await ReplicatedEncoder(fleet.replicas).encode(["x"])
        assert fleet.services["b"].encoded == []
        assert fleet["a"].failures == 0


async def test_after_so_many_attempts_the_last_failure_is_the_answer() -> None:
    async with entered(Fleet("abcde")) as fleet:
        for service in fleet.services.values():
            service.fails = ModelServiceFailed("nonsense")
        with pytest.raises(ModelServiceFailed):
            await ReplicatedEncoder(fleet.replicas).encode(["x"])
        assert sum(len(service.encoded) for service in fleet.services.values()) == ATTEMPTS


async def test_without_a_replica_there_is_nothing_to_try() -> None:
    async with entered(Fleet("")) as fleet:
        with pytest.raises(ModelServiceDown):
            await ReplicatedEncoder(fleet.replicas).encode(["x"])
        with pytest.raises(ModelServiceDown):
            await deltas(ReplicatedGenerator(fleet.replicas), prompts("p"))


async def test_with_fewer_replicas_than_attempts_the_failure_is_the_answer_and_not_that_none_is_left() -> None:
    async with entered(Fleet("a")) as fleet:
        fleet.services["a"].fails = ModelServiceFailed("nonsense")
        with pytest.raises(ModelServiceFailed, match="nonsense"):
            await ReplicatedEncoder(fleet.replicas).encode(["x"])


# Generating


def test_a_prompts_weight_is_what_it_reads_and_writes() -> None:
    sampling = Sampling(max_tokens=100)
    assert outstanding_tokens(Prompt("p", text="four" * 10, sampling=sampling)) == 110
    spoken = (Message("user", "four" * 5), Message("assistant", "four" * 5))
    assert outstanding_tokens(Prompt("p", spoken, sampling=sampling)) == 110


async def test_prompts_are_counted_until_each_has_ended() -> None:
    async with entered(Fleet("a")) as fleet:
        service = fleet.services["a"]
        asked = prompts("p", "q")
        service.script = [frame(), frame(token("p")), frame(ended("p")), frame(token("q"))]
        counts = []
        async for _ in ReplicatedGenerator(fleet.replicas).generate(asked):
            counts.append((fleet["a"].prompts, fleet["a"].tokens // outstanding_tokens(asked[0])))
        assert counts == [(2, 2), (2, 2), (1, 1), (1, 1), (0, 0)]


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: error.code)
@pytest.mark.parametrize("accepted", [True, False])
async def test_before_the_first_token_a_prompt_goes_on_to_another_replica(error: PharosError, accepted: bool) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(), error] if accepted else [error]
        found = await deltas(ReplicatedGenerator(fleet.replicas), prompts("p", "q", timeout_seconds=9))
        assert ends(found) == {"p": "stop", "q": "stop"}
        (first,), (second,) = fleet.services["a"].given, fleet.services["b"].given
        assert [prompt.request_id for prompt in second] == ["p", "q"]
        for before, after in zip(first, second, strict=True):
            assert before.timeout_seconds is not None
            assert after.timeout_seconds is not None
            assert after.timeout_seconds < before.timeout_seconds


async def test_after_its_first_token_a_prompt_ends_with_a_problem_while_silent_ones_go_on() -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(), frame(token("heard")), frame(ended("ended")), DOWN]
        found = await deltas(ReplicatedGenerator(fleet.replicas), prompts("heard", "silent", "ended"))
        assert ends(found) == {"heard": "error", "silent": "stop", "ended": "stop"}
        assert found["heard"][-1].error == PromptProblem(503, "model_service_down", "gone")
        assert [[prompt.request_id for prompt in batch] for batch in fleet.services["b"].given] == [["silent"]]
        assert fleet["a"].failures == 1


async def test_a_delta_without_tokens_has_not_been_heard() -> None:
    """A token may add no text yet; a delta without a token adds nothing at all."""
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(Delta("p")), DOWN]
        assert ends(await deltas(ReplicatedGenerator(fleet.replicas), prompts("p"))) == {"p": "stop"}


class EndsEarly(FakeService):
    """Ends its streams before the answers."""

    async def generate(self, prompts: list[Prompt]) -> AsyncIterator[Frame]:  # type: ignore[override]
        self.given.append(list(prompts))
        yield frame(token(prompts[0].request_id))


async def test_a_stream_that_ends_before_the_answers_is_a_failure() -> None:
    fleet = Fleet("ab")
    fleet.services["a"] = EndsEarly("a")
    async with entered(fleet):
        fleet.first("a")
        found = await deltas(ReplicatedGenerator(fleet.replicas), prompts("p", "q"))
        assert ends(found) == {"p": "error", "q": "stop"}
        problem = found["p"][-1].error
        assert problem is not None
        assert (problem.status, problem.code) == (502, "model_service_failed")
        assert fleet["a"].failures == 1


async def test_a_refusal_is_an_answer() -> None:
    refusal = Delta("p", finish_reason="error", error=PromptProblem(413, "prompt_too_long", "too long"))
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(refusal)]
        found = await deltas(ReplicatedGenerator(fleet.replicas), prompts("p", "q"))
        assert found["p"] == [refusal]
        assert ends(found) == {"p": "error", "q": "stop"}
        assert (fleet.services["b"].given, fleet["a"].failures) == ([], 0)


@pytest.mark.parametrize("error", NOT_ELSEWHERE, ids=lambda error: error.code)
async def test_what_is_wrong_with_the_call_is_not_tried_elsewhere(error: PharosError) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").fails = error
        with pytest.raises(type(error)):
            await deltas(ReplicatedGenerator(fleet.replicas), prompts("p"))
        assert fleet.services["b"].given == []


async def test_when_no_replica_accepts_the_last_failure_is_raised() -> None:
    async with entered(Fleet("abcde")) as fleet:
        for service in fleet.services.values():
            service.fails = Overloaded("busy")
        with pytest.raises(Overloaded):
            await deltas(ReplicatedGenerator(fleet.replicas), prompts("p"))
        assert sum(len(service.given) for service in fleet.services.values()) == ATTEMPTS


async def test_when_the_last_attempt_fails_after_acceptance_each_prompt_ends_with_a_problem() -> None:
    async with entered(Fleet("abcde")) as fleet:
        for service in fleet.services.values():
            service.script = [frame(), DOWN]
        found = await deltas(ReplicatedGenerator(fleet.replicas), prompts("p", "q"))
        assert ends(found) == {"p": "error", "q": "error"}
        assert sum(len(service.given) for service in fleet.services.values()) == ATTEMPTS


@pytest.mark.parametrize("frames", range(5))
async def test_closing_the_stream_early_closes_the_replicas_and_counts_nothing(frames: int) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(), frame(token("heard")), DOWN]
        async with aclosing(ReplicatedGenerator(fleet.replicas).generate(prompts("heard", "silent"))) as stream:
            for _ in range(frames):
                await anext(stream)


@pytest.mark.parametrize("turns", range(12))
async def test_being_cancelled_at_any_moment_counts_nothing(turns: int) -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [frame(), frame(token("heard")), DOWN]
        reading = asyncio.ensure_future(deltas(ReplicatedGenerator(fleet.replicas), prompts("heard", "silent")))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_an_abort_goes_to_the_replica_that_runs_the_prompt() -> None:
    async with entered(Fleet("ab")) as fleet:
        for service in fleet.services.values():
            service.waits = True
        generator = ReplicatedGenerator(fleet.replicas)
        reading = [asyncio.ensure_future(deltas(generator, prompts(name))) for name in "pqrs"]
        await asyncio.gather(*(service.began.wait() for service in fleet.services.values()))
        await generator.abort(["p", "q", "r", "s", "never heard of"])
        for service in fleet.services.values():
            (aborted,) = service.aborted
            assert sorted(aborted) == sorted(batch[0].request_id for batch in service.given)
            service.go_on.set()
        await asyncio.gather(*reading)
        await generator.abort(["p"])  # it has ended
        assert [len(service.aborted) for service in fleet.services.values()] == [1, 1]


async def test_a_prompt_that_was_aborted_is_not_sent_to_another_replica() -> None:
    async with entered(Fleet("ab")) as fleet:
        fleet.first("a").script = [Frame(), DOWN]
        generator = ReplicatedGenerator(fleet.replicas)
        frames = generator.generate(prompts("stays", "leaves"))
        assert await anext(frames) == Frame()
        assert fleet["a"].prompts == 2
        await generator.abort(["leaves"])
        rest = [delta async for said in frames for delta in said.deltas]
        assert {delta.request_id: delta.finish_reason for delta in rest} == {"leaves": "error", "stays": "stop"}
        assert [[prompt.request_id for prompt in batch] for batch in fleet.services["b"].given] == [["stays"]]


async def test_a_replica_that_is_down_keeps_no_abort_from_the_others() -> None:
    async with entered(Fleet("ab")) as fleet:
        for service in fleet.services.values():
            service.waits = True
        generator = ReplicatedGenerator(fleet.replicas)
        reading = [asyncio.ensure_future(deltas(generator, prompts(name))) for name in "pq"]
        await asyncio.gather(*(service.began.wait() for service in fleet.services.values()))
        first = fleet.services["a" if fleet.services["a"].given[0][0].request_id == "p" else "b"]
        first.fails = DOWN
        with pytest.raises(ModelServiceDown):
            await generator.abort(["p", "q"])
        assert [service.aborted != [] for service in fleet.services.values()] == [True, True]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


PROMPTS = [f"p{i}" for i in range(4)]


@settings(max_examples=150, deadline=None)
@given(
    scripts=st.lists(
        st.tuples(
            # Which prompts get a token or end, one a frame, before the replica fails; None: it does not fail.
            st.lists(st.tuples(st.sampled_from(PROMPTS), st.booleans()), max_size=6),
            st.sampled_from([None, *ELSEWHERE]),
        ),
        min_size=3,
        max_size=3,
    ),
    accepts=st.booleans(),
    aborted=st.sets(st.sampled_from(PROMPTS)),
)
def test_wherever_replicas_fail_every_prompt_ends_exactly_once(
    scripts: list[tuple[list[tuple[str, bool]], PharosError | None]], accepts: bool, aborted: set[str]
) -> None:
    class Scripted(FakeService):
        """Says of its script what it was asked for."""

        async def generate(self, prompts: list[Prompt]) -> AsyncIterator[Frame]:  # type: ignore[override]
            asked.append(1)
            assert not any(delta.tokens for prompt in prompts for delta in found[prompt.request_id])
            says, failure = scripts["abc".index(self.name)]
            left = [prompt.request_id for prompt in prompts]
            if accepts:
                yield frame()
            for name, ends in says:
                await asyncio.sleep(0)
                if name in left:
                    if ends:
                        left.remove(name)
                    yield frame(ended(name) if ends else token(name))
            if failure is not None:
                raise failure
            yield frame(*map(ended, left))

    asked: list[int] = []
    found: dict[str, list[Delta]] = defaultdict(list)

    async def scenario() -> None:
        fleet = Fleet("abc")
        for name in "abc":
            fleet.services[name] = Scripted(name)
        async with entered(fleet):
            generator = ReplicatedGenerator(fleet.replicas)
            raised = False
            try:
                async for said in generator.generate(prompts(*PROMPTS)):
                    for delta in said.deltas:
                        found[delta.request_id].append(delta)
                    await generator.abort(list(aborted))
            except PharosError:
                raised = True
            assert 1 <= len(asked) <= ATTEMPTS
            if raised:
                assert not accepts, "an error instead of a stream, never after it has begun"
                assert not any(found.values())
            else:
                assert set(ends(found)) == set(PROMPTS)

    asyncio.run(scenario())
