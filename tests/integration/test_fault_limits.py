"""Services told to stop, deadlines, and more work than may be held: each has its answer, at once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from contracts import telemetry
from tests.support import asking, load
from tests.support.interposer import Interposer
from tests.support.processes import Service
from tests.support.scraping import scrape
from tests.support.stack import ENDLESS, QUESTION, SLOTS, Stack, held
from tests.support.vitals import eventually, no_leak, nothing_held

AT_ONCE_SECONDS = 20.0
"""An answer that comes at once is here by then, on a machine that stalls, and no other: what is waited for takes 100 s
(ENDLESS) or until the test lets it end."""

KEYS = {
    "few": {"key": "few-requests", "requests_per_minute": 3},
    "many": {"key": "many-requests"},
}


def told_to_stop(service: Service) -> None:
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)


async def ended(service: Service) -> int:
    """Its exit status, once it has one."""
    assert service.process is not None
    return await asyncio.to_thread(service.process.wait, 60)


def code(answer: load.Answer) -> str:
    """Of a refusal, in either of the two forms."""
    return str(answer.body.get("error", answer.body)["code"])


def submitted(gateway: Service) -> float:
    """Prompts that the gateway has sent to any replica."""
    with asking.client(gateway.url) as http:
        return asking.metric(http, "pharos_batch_items_sum", kind="generate")


@asynccontextmanager
async def unfinished(gateway: Service) -> AsyncIterator[None]:
    """Meanwhile the gateway serves a request whose last byte is still to come, and is answered in the end."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        body = json.dumps({"question": QUESTION, "max_tokens": 2}).encode()
        head = "POST /ask HTTP/1.1\r\nHost: pharos\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        await eventually(lambda: scrape(gateway.url).value("pharos_requests_in_flight") >= 1)
        yield
        writer.write(body[-1:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()


@pytest.fixture
def another(stack: Stack) -> Iterator[Service]:
    """A gateway to be stopped, that lets four requests in and knows two keys."""
    items = {f"{kind}_batch_items": 4 for kind in ("encode", "search", "generate")}
    service = stack.another_gateway("limited", requests_max=4, api_keys=json.dumps(KEYS), **items)
    yield service
    service.stop()


async def test_a_gateway_told_to_stop_finishes_what_runs_and_refuses_the_rest(stack: Stack) -> None:
    patience = {"body_timeout_seconds": 120, "shutdown_grace_seconds": 120}
    gateway = stack.another_gateway("stopping", urls=stack.urls[:2], **patience)
    await asyncio.to_thread(gateway.start)
    try:
        async with load.many(gateway.url) as http, unfinished(gateway):  # so that it drains until all has been seen
            # Twelve prompts for eight slots: some of them are still waiting when the signal comes.
            running = [ask(http, stream=True, max_tokens=30) for ask in (load.ask, load.chat) for _ in range(6)]
            running += [load.ask(http, max_tokens=30), load.chat(http, max_tokens=30)]
            await eventually(lambda: sum(a.answer.tokens > 0 for a in running) >= 6)
            for path in ("/healthz", "/healthz"):  # a connection that is kept
                assert (await http.get(path)).status_code == 200
            told_to_stop(gateway)
            await eventually(lambda: httpx.get(gateway.url + "/readyz", trust_env=False).status_code == 503)
            assert (await http.get("/readyz")).json()["status"] == "draining"
            for answer in await load.answers([load.ask(http), load.chat(http, stream=True), load.embed(http)]):
                assert (answer.status, code(answer)) == (503, "draining")
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.seconds < AT_ONCE_SECONDS
            answers = await load.answers(running)
        assert [answer for answer in answers if not answer.complete] == []
        assert {answer.words for answer in answers[:12]} == {30}
        assert await ended(gateway) == -signal.SIGTERM  # uvicorn ends by the signal that it has obeyed
        assert "Traceback" not in gateway.log.read_text()
    finally:
        await asyncio.to_thread(gateway.stop)
    await nothing_held(*stack.replicas)


def states(gateway: Service, state: str) -> set[str]:
    """The URLs of the replicas of which the gateway thinks so."""
    return {
        sample.labels["replica"]
        for sample in scrape(gateway.url).samples
        if sample.name == telemetry.REPLICA_STATE.name and sample.labels["state"] == state and sample.value
    }


@pytest.fixture
def leaving(stack: Stack) -> Iterator[Service]:
    """A replica that runs again afterwards, whatever happens."""
    replica = stack.replicas[0]
    yield replica
    if replica.process is not None and replica.process.poll() is not None:
        replica.start()


async def test_a_replica_told_to_stop_finishes_what_runs_and_gets_nothing_new(stack: Stack, leaving: Service) -> None:
    port = int(leaving.url.rsplit(":", 1)[1])
    async with (
        no_leak(stack.gateway),
        Interposer(stack.faulty_port, port) as interposer,
        load.many(stack.gateway.url) as http,
    ):
        while not interposer.count("/generate"):
            answers = await load.answers([load.chat(http, max_tokens=2) for _ in range(4)])
            assert all(answer.complete for answer in answers)
        # 8 s each, so that they are seen running, and run on when the signal has come.
        asked = [load.ask(http, stream=True, max_tokens=160) for _ in range(8)]
        await eventually(lambda: held(leaving) >= 3 and sum(a.answer.tokens > 0 for a in asked) >= 4)
        told_to_stop(leaving)
        # Its first refusal, or its next word about its readiness, and it is left alone.
        at_once = [load.chat(http, max_tokens=2), load.ask(http, max_tokens=2), load.embed(http)]
        await eventually(lambda: states(stack.gateway, "draining") == {leaving.url, stack.urls[-1]})
        assert all(answer.complete for answer in await load.answers(at_once))
        since = time.monotonic()
        for _ in range(7):
            asked += [load.chat(http, max_tokens=2), load.ask(http, max_tokens=2), load.embed(http)]
            await asyncio.sleep(0.1)
        assert interposer.work_since(since) == 0
        answers = await load.answers(asked)
        assert [(answer.status, answer.body) for answer in answers if not answer.complete] == []
        assert await ended(leaving) == -signal.SIGTERM
        await asyncio.to_thread(leaving.start)
        made = 0
        while not made:
            assert all(a.complete for a in await load.answers([load.chat(http, max_tokens=2) for _ in range(4)]))
            with asking.client(leaving.url) as counters:
                made = int(asking.metric(counters, "http_requests_total", handler="/generate"))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9", "soon", "1,5"])
async def test_a_timeout_that_makes_no_sense_is_refused(stack: Stack, seconds: str) -> None:
    async with load.many(stack.gateway.url) as http:
        headers = {"X-Request-Timeout": seconds}
        ask, chat, embed = await load.answers([kind(http, headers) for kind in (load.ask, load.chat, load.embed)])
    assert (ask.status, ask.body["code"]) == (422, "invalid_request")
    assert "X-Request-Timeout" in ask.body["detail"]
    for answer in (chat, embed):
        assert (answer.status, answer.body["error"]["type"]) == (400, "invalid_request_error")


async def test_a_deadline_ends_what_it_finds(stack: Stack) -> None:
    def within(seconds: float) -> dict[str, str]:
        return {"X-Request-Timeout": str(seconds)}

    async with no_leak(stack.gateway), load.many(stack.gateway.url) as http:
        # Before anything can be done, and while the answer is being made, by /ask and under /v1.
        for seconds in (0.0001, 0.6):
            asked = [
                ask(http, within(seconds), max_tokens=ENDLESS) for ask in (load.ask, load.chat, load.ask_documents)
            ]
            for answer in await load.answers(asked):
                assert (answer.status, code(answer)) == (504, "deadline_exceeded")
                assert answer.seconds < AT_ONCE_SECONDS
                assert int(answer.headers["retry-after"]) >= 1
        # Time enough for a first token, 0.2 s, on any machine.
        streams = [ask(http, within(5), stream=True, max_tokens=ENDLESS) for ask in (load.ask, load.chat)]
        for answer in await load.answers(streams):
            assert answer.broken_off
            assert code(answer) == "deadline_exceeded"
        await nothing_held(*stack.replicas)

        # Behind full slots: what has no time to wait never gets to a replica.
        running = [load.chat(http, stream=True, max_tokens=ENDLESS) for _ in range(2 * SLOTS)]
        await eventually(lambda: sum(map(held, stack.replicas)) == 2 * SLOTS)
        sent = submitted(stack.gateway)
        late = await load.answers([load.chat(http, within(0.3), stream=stream) for stream in (True, False) * 4])
        assert {(answer.status, code(answer)) for answer in late} == {(504, "deadline_exceeded")}
        assert max(answer.seconds for answer in late) < AT_ONCE_SECONDS
        assert sum(map(held, stack.replicas)) == 2 * SLOTS
        assert submitted(stack.gateway) == sent
        await load.leave(running)
        await nothing_held(*stack.replicas)


async def test_overload_and_keys(stack: Stack, another: Service) -> None:
    def key(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEYS[name]['key']}"}

    await asyncio.to_thread(another.start)
    async with load.many(another.url) as http:
        for answer in await load.answers([load.ask(http), load.chat(http, {"Authorization": "Bearer wrong-key"})]):
            assert answer.status == 401
        # 8 s each: the gateway stays full until everybody has been refused.
        running = [load.chat(http, key("many"), stream=True, max_tokens=160) for _ in range(4)]
        await eventually(lambda: all(a.answer.tokens for a in running))
        refused = await load.answers([ask(http, key("many")) for ask in (load.ask, load.chat, load.embed) * 5])
        assert {(answer.status, code(answer)) for answer in refused} == {(503, "overloaded")}
        assert min(int(answer.headers["retry-after"]) for answer in refused) >= 1
        assert not any(asking_.task.done() for asking_ in running), "everybody was refused before there was room"
        assert all(answer.complete for answer in await load.answers(running))
        # A client has the end of a stream a little before its place is free.
        await eventually(lambda: scrape(another.url).value("pharos_requests_in_flight") == 0)

        for _ in range(3):
            assert (await load.embed(http, key("few")).task).status == 200
        over, other = await load.answers([load.embed(http, key("few")), load.embed(http, key("many"))])
        assert (over.status, code(over), other.status) == (429, "rate_limit_exceeded", 200)
        assert 1 <= int(over.headers["retry-after"]) <= 60
    await nothing_held(*stack.replicas)
