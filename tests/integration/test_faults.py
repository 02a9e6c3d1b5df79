"""Model services and Milvus that die, hang, answer nonsense or are told to stop, under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support import asking, load, processes
from tests.support.interposer import Interposer, body, breaks_off, says, silence
from tests.support.stack import Stack, held
from tests.support.vitals import eventually, no_leak, nothing_held

WORK = ("/encode", "/generate", "/models", "/models/generator/tokenizer")
PATIENCE_SECONDS = 90
"""A replica that has failed again and again stays away for up to 30 s."""
JSON = b"Content-Type: application/json"
NONSENSE = {
    "no HTTP": says(b"\x16\x03\x01 garbage\r\n\r\n\r\n"),
    "no JSON": says(body(b"{]", JSON)),
    "no UTF-8": says(body(b'{"deltas": [{"request_id": "\xff"}], "encoder": "\xff", "status": "\xff"}\n', JSON)),
    "no frame": says(body(b'{"deltas": 7}\n[]\n', JSON)),
    "no gzip": says(body(b"no gzip", b"Content-Encoding: gzip")),
    "half a body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "an empty body": says(body(b"")),
    "an odd refusal": says(body(b'{"refused": [1]}', JSON, status=b"413 Too Much")),
    "a redirect": says(body(b"", b"Location: /", status=b"302 Found")),
    "nothing": says(b""),
}


@pytest.fixture
async def faulty(stack: Stack) -> AsyncIterator[Interposer]:
    """A third replica, which is the first one through somebody who interferes; the gateway uses it already."""
    target = int(stack.replicas[0].url.rsplit(":", 1)[1])
    async with Interposer(stack.faulty_port, target) as interposer:
        await used(stack, interposer)
        yield interposer


async def used(stack: Stack, faulty: Interposer) -> None:
    """Ask until the faulty replica gets work (again)."""
    since = time.monotonic()
    async with load.many(stack.gateway.url) as http:
        while not faulty.work_since(since):
            assert time.monotonic() < since + PATIENCE_SECONDS, stack.gateway.tail()
            await load.answers([load.embed(http)])
            await asyncio.sleep(0.02)


async def ejected(stack: Stack, faulty: Interposer) -> None:
    """Ask until it gets no more work, which must be soon, and does for a while."""
    async with load.many(stack.gateway.url) as http:
        for _ in range(10):
            since = time.monotonic()
            answers = await load.answers([load.embed(http, texts=[f"oil {i}"]) for i in range(8)])
            assert {answer.status for answer in answers} == {200}
            if not faulty.work_since(since):
                return
    raise AssertionError(f"still used: {faulty.requests[-20:]}")


def mixed(http: httpx.AsyncClient, **more: object) -> list[load.Asking]:
    """One of each kind of request."""
    return [
        load.ask(http, max_tokens=4, **more),
        load.ask(http, max_tokens=4, stream=True, **more),
        load.chat(http, max_tokens=4, **more),
        load.chat(http, max_tokens=4, stream=True, **more),
        load.embed(http),
    ]


async def test_a_replica_killed_under_load_costs_only_the_streams_it_had_begun(stack: Stack) -> None:
    victim, other = stack.replicas
    async with no_leak(stack.gateway), load.many(stack.gateway.url) as http:
        # 5 s each, so that those on the victim have begun and not ended when it dies.
        asked = [load.ask(http, stream=True, max_tokens=100) for _ in range(16)]
        await eventually(lambda: held(victim) >= 4 and held(other) >= 4)
        await eventually(lambda: sum(a.answer.tokens > 2 for a in asked) >= 8)
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.start)
        answers = await load.answers(asked)
        broken = [answer for answer in answers if answer.broken_off]
        assert 1 <= len(broken) <= 4
        assert all(answer.body["retryable"] for answer in broken)
        whole = [answer for answer in answers if answer not in broken]
        assert [answer for answer in whole if not answer.complete or answer.words != 100] == []
        assert len({answer.text for answer in whole}) == 1

        with asking.client(victim.url) as counters:
            while not asking.metric(counters, "http_requests_total", handler="/generate"):
                assert all(answer.complete for answer in await load.answers(mixed(http)))
        await nothing_held(victim, other)


@pytest.mark.parametrize("readiness", ["hangs", "is well"])
async def test_a_replica_that_hangs_is_passed_over(stack: Stack, faulty: Interposer, readiness: str) -> None:
    async with no_leak(stack.gateway), load.many(stack.gateway.url) as http:
        faulty.misbehave(silence, *WORK, *(["/readyz"] if readiness == "hangs" else []))
        answers = await load.answers([request for _ in range(4) for request in mixed(http)])
        assert [answer.status for answer in answers if not answer.complete] == []
        # One patience of 4 s for encoding, one for submitting, and a queue behind others who wait for the same; without
        # it a request would wait for its own time to run out, 120 s.
        assert max(answer.seconds for answer in answers) < 60
        await ejected(stack, faulty)
        faulty.faults = {}
        await used(stack, faulty)
    await nothing_held(*stack.replicas)


async def test_a_replica_that_answers_nonsense_is_passed_over(stack: Stack, faulty: Interposer) -> None:
    async with no_leak(stack.gateway), load.many(stack.gateway.url) as http:
        for name, nonsense in NONSENSE.items():
            faulty.misbehave(nonsense, *WORK)
            answers = await load.answers([request for _ in range(2) for request in mixed(http)])
            assert [(name, answer) for answer in answers if not answer.complete] == []
            await ejected(stack, faulty)
            faulty.faults = {}
            await used(stack, faulty)
    await nothing_held(*stack.replicas)


async def test_nonsense_without_anybody_else_is_an_error(stack: Stack, faulty: Interposer) -> None:
    alone = stack.another_gateway("alone", urls=[stack.urls[-1]], replica_probe_seconds=0.1)
    await asyncio.to_thread(alone.start)
    try:
        async with load.many(alone.url) as http:
            await load.answers(mixed(http))
            faulty.misbehave(breaks_off, "/generate")
            streamed = load.ask(http, stream=True)
            assert (await streamed.task).broken_off
            refused(await load.answers([load.ask(http), load.chat(http)]))
            for nonsense in NONSENSE.values():
                faulty.misbehave(nonsense, *WORK)
                refused(await load.answers(mixed(http)))
            for nonsense in NONSENSE.values():
                faulty.misbehave(nonsense, "/readyz")
                await asyncio.sleep(0.3)
            refused(await load.answers(mixed(http)))
            faulty.faults = {}
            await recovered(http)
    finally:
        await asyncio.to_thread(alone.stop)
    assert "Traceback" not in alone.log.read_text()


def refused(answers: list[load.Answer]) -> None:
    """502 or 503 with Retry-After and a body that says why."""
    for answer in answers:
        assert answer.status in (502, 503), answer
        assert int(answer.headers["retry-after"]) >= 1
        problem = answer.body.get("error", answer.body)
        assert problem["code"] in ("model_service_failed", "model_service_down"), problem


async def recovered(http: httpx.AsyncClient, seconds: float = PATIENCE_SECONDS) -> None:
    """It answers again, by itself."""
    deadline = time.monotonic() + seconds
    while not all(answer.complete for answer in await load.answers(mixed(http))):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_milvus_restarted_under_load(stack: Stack) -> None:
    stop = asyncio.Event()

    async def keep_asking(http: httpx.AsyncClient) -> list[load.Answer]:
        answers: list[load.Answer] = []
        while not stop.is_set():
            answers += await load.answers([load.ask(http, max_tokens=2), load.ask(http, max_tokens=2, stream=True)])
        return answers

    async with no_leak(stack.gateway), load.many(stack.gateway.url) as http:
        asking = [asyncio.create_task(keep_asking(http)) for _ in range(4)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stack.milvus.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stack.milvus.start, processes.listens)
        await recovered(http)
        stop.set()
        answers = [answer for answers in await asyncio.gather(*asking) for answer in answers]
    failed = [answer for answer in answers if not answer.complete]
    assert failed
    assert {answer.body["code"] for answer in failed} <= {"store_down", "store_failed"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in failed)
    # Encoded, searched (a call has 4 s, behind others that have it too), generated: nobody waits until the whole
    # time of the request has run out, 120 s.
    assert max(answer.seconds for answer in answers) < 60
