"""What the gateway counts, seen from outside; and that no client can make series or leave a gauge behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support import asking, load, processes
from tests.support.processes import Service
from tests.support.scraping import growth, scrape, scrape_at_rest
from tests.support.stack import ENDLESS, MIN_SCORE, QUESTION, Stack
from tests.support.vitals import eventually, nothing_held

REQUESTS = "pharos_requests_total"
STAGES = "pharos_stage_duration_seconds_count"
GAUGES = (
    "pharos_requests_in_flight",
    "pharos_queue_items",
    "pharos_replica_outstanding_tokens",
    "pharos_replica_outstanding_prompts",
)


def test_an_answer_counts_once_in_every_stage(gateway: Service, http: httpx.Client) -> None:
    grew = growth(gateway.url, lambda: http.post("/ask", json={"question": QUESTION, "topic": "business"}))
    assert grew(REQUESTS) == grew(REQUESTS, route="/ask", outcome="ok") == 1
    for stage in ("queue", "encode", "search", "prompt", "generate", "total"):
        assert grew(STAGES, stage=stage) == 1, stage
        assert grew("pharos_topic_stage_duration_seconds_count", topic="business", stage=stage) == 1, stage
    assert grew("pharos_time_to_first_token_seconds_count") == 1
    assert grew("pharos_generation_tokens_total") == 32  # as the engine of the fixture makes them
    assert grew("pharos_inter_token_latency_seconds_count") == 31
    assert grew("pharos_prompt_tokens_total") > 50
    assert grew("pharos_best_score_count") == 1
    assert (
        grew("pharos_no_first_token_total")
        == grew("pharos_not_in_documents_total")
        == grew("pharos_refused_total")
        == 0
    )
    for kind in ("encode", "search", "generate"):
        assert grew("pharos_batch_items_sum", kind=kind) == 1


def test_the_stages_of_a_stream_are_its_time(gateway: Service, http: httpx.Client) -> None:
    # When the machine stalls between two stages, or where the first token comes, they are not: hence the best of some.
    outside: list[float] = []
    after_first_token: list[float] = []
    for _ in range(5):
        grew = growth(gateway.url, lambda: asking.stream(http, question=QUESTION))
        seconds = {
            stage: grew("pharos_stage_duration_seconds_sum", stage=stage)
            for stage in ("queue", "encode", "search", "prompt", "generate", "total")
        }
        total = seconds.pop("total")
        outside.append(abs(sum(seconds.values()) - total) / total)
        after_first_token.append(total - grew("pharos_time_to_first_token_seconds_sum"))
        assert seconds["generate"] > 0.3  # 31 tokens of 10 ms
    assert min(outside) < 0.2, outside
    assert max(after_first_token) > 0.25, after_first_token


def test_a_chat_with_the_llm_alone_has_its_stages_too(gateway: Service, http: httpx.Client) -> None:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Hello."}]}
    grew = growth(gateway.url, lambda: http.post("/v1/chat/completions", json=body).raise_for_status())
    assert grew(REQUESTS, route="/v1/chat/completions", outcome="ok") == 1
    assert {stage: grew(STAGES, stage=stage) for stage in ("queue", "encode", "search", "prompt", "generate")} == {
        "queue": 1, "encode": 0, "search": 0, "prompt": 0, "generate": 1,
    }  # fmt: skip
    assert grew("pharos_time_to_first_token_seconds_count") == 1
    assert grew("pharos_topic_stage_duration_seconds_count") == 0


def test_embeddings_are_requests_and_no_questions(gateway: Service, http: httpx.Client) -> None:
    grew = growth(gateway.url, lambda: http.post("/v1/embeddings", json={"model": "hash", "input": ["a", "b"]}))
    assert grew(REQUESTS, route="/v1/embeddings", outcome="ok") == 1
    assert grew(STAGES) == grew("pharos_no_first_token_total") == 0


@pytest.mark.parametrize(
    ("body", "headers", "outcome", "reason"),
    [
        ({"question": ""}, {}, "rejected", "invalid_request"),
        ({"question": QUESTION, "topic": "no such"}, {}, "rejected", "unknown_topic"),
        ({"question": QUESTION}, {"X-Request-Timeout": "soon"}, "rejected", "invalid_request"),
        ({"question": QUESTION}, {"X-Request-Timeout": "0.15"}, "timeout", None),
        ({"question": QUESTION, "stream": True}, {"X-Request-Timeout": "0.15"}, "timeout", None),
    ],
    ids=["invalid", "topic", "terms", "late", "late-stream"],
)
def test_a_request_that_gets_no_answer_has_its_outcome(
    gateway: Service,
    http: httpx.Client,
    body: dict[str, object],
    headers: dict[str, str],
    outcome: str,
    reason: str | None,
) -> None:
    grew = growth(gateway.url, lambda: http.post("/ask", json=body, headers=headers).read())
    assert grew(REQUESTS) == grew(REQUESTS, route="/ask", outcome=outcome) == 1
    assert grew("pharos_refused_total") == grew("pharos_refused_total", reason=reason or "none") == bool(reason)
    assert grew(STAGES, stage="total") == 0
    first_tokens = grew("pharos_time_to_first_token_seconds_count")
    assert grew("pharos_no_first_token_total", reason=outcome) == 1 - first_tokens


def test_a_question_without_relevant_passages_is_answered_without_a_token(gateway: Service, http: httpx.Client) -> None:
    grew = growth(gateway.url, lambda: http.post("/ask", json={"question": "zxqv wvut"}).raise_for_status())
    assert grew(REQUESTS, outcome="ok") == 1
    assert grew("pharos_not_in_documents_total") == grew("pharos_no_first_token_total", reason="nothing_relevant") == 1


def test_a_client_that_leaves_is_cancelled_and_its_stages_count(stack: Stack) -> None:
    def leave() -> None:
        body = {"question": QUESTION, "stream": True, "max_tokens": ENDLESS}
        with asking.client(stack.gateway.url) as http, http.stream("POST", "/ask", json=body) as response:
            for name, _ in asking.events(response):
                if name == "token":
                    break

    grew = growth(stack.gateway.url, leave)
    assert grew(REQUESTS) == grew(REQUESTS, route="/ask", outcome="cancelled") == 1
    assert grew(STAGES, stage="generate") == grew("pharos_time_to_first_token_seconds_count") == 1
    assert grew(STAGES, stage="total") == 0


def test_a_dependency_that_is_down_is_an_error_and_says_so_by_itself(simulated: Service, logs: Path) -> None:
    lonely = processes.gateway(
        logs / "lonely.log", simulated.url, f"http://127.0.0.1:{processes.free_port()}", milvus_timeout_seconds=0.5
    )
    lonely.start(processes.answers_healthy)
    try:
        with asking.client(lonely.url) as http:
            grew = growth(lonely.url, lambda: http.post("/ask", json={"question": QUESTION}))
            assert grew(REQUESTS, route="/ask", outcome="error") == 1
            assert grew("pharos_no_first_token_total", reason="error") == 1
            assert asking.eventually(lambda: "milvus" in scrape(lonely.url).values_of("dependency"))
            now = scrape(lonely.url)
            assert now.value("pharos_dependency_up", dependency="milvus") == 0
            assert now.value("pharos_dependency_up", dependency="model_service") == 1
    finally:
        lonely.stop()


async def test_gauges_are_zero_again_after_aborts_and_failures(stack: Stack) -> None:
    gateway = stack.gateway
    await eventually(lambda: all(scrape(gateway.url).value(name) == 0 for name in GAUGES))
    before = await asyncio.to_thread(scrape_at_rest, gateway.url)

    def ask(http: httpx.AsyncClient, count: int, headers: dict[str, str] | None = None) -> list[load.Asking]:
        return [load.ask(http, headers, stream=bool(i % 2), max_tokens=ENDLESS) for i in range(count)]

    async with load.many(gateway.url) as http:
        running = ask(http, 8)
        await eventually(lambda: scrape(gateway.url).value("pharos_replica_outstanding_prompts") == 8)
        waiting = ask(http, 32)
        await eventually(lambda: scrape(gateway.url).value("pharos_queue_items", kind="generate") == 32)
        during = await asyncio.to_thread(scrape, gateway.url)
        assert during.value("pharos_requests_in_flight") >= 40
        assert during.value("pharos_replica_outstanding_prompts") == 8
        assert during.value("pharos_replica_outstanding_tokens") > 0
        assert during.value("pharos_queue_items", kind="generate") == 32
        await load.leave(waiting)  # first, so that no place becomes free for them
        await eventually(lambda: scrape(gateway.url).value("pharos_queue_items", kind="generate") == 0)
        await load.leave(running)
        await eventually(lambda: scrape(gateway.url).value("pharos_replica_outstanding_prompts") == 0)
        # Eight without a deadline keep every slot, so that those with one run out of time in the queue.
        keeping = ask(http, 8)
        await eventually(lambda: scrape(gateway.url).value("pharos_replica_outstanding_prompts") == 8)
        late = ask(http, 12, {"X-Request-Timeout": "4"})
        await asyncio.gather(*(asking_.task for asking_ in late))
        await load.leave(keeping)
    await nothing_held(*stack.replicas)
    await eventually(
        lambda: all(scrape(gateway.url).value(name) == 0 for name in GAUGES),
        otherwise=lambda: {name: scrape(gateway.url).value(name) for name in GAUGES},
    )
    after = await asyncio.to_thread(scrape_at_rest, gateway.url)
    cancelled = after.value(REQUESTS, outcome="cancelled") - before.value(REQUESTS, outcome="cancelled")
    assert cancelled == 48
    dropped = {
        reason: after.value("pharos_queue_dropped_total", kind="generate", reason=reason)
        - before.value("pharos_queue_dropped_total", kind="generate", reason=reason)
        for reason in ("cancelled", "deadline")
    }
    assert dropped["cancelled"] == 32
    assert dropped["deadline"] >= 1


def test_no_client_can_make_series(gateway: Service, http: httpx.Client) -> None:
    def strange(i: int) -> None:
        name = f"{uuid4().hex}"
        http.post("/ask", json={"question": QUESTION, "topic": name})
        http.post("/v1/chat/completions", json={"model": name, "messages": [{"role": "user", "content": "?"}]})
        http.post("/v1/embeddings", json={"model": name, "input": "?"})
        http.get(f"/{name}" if i % 2 else f"/v1/models/{name}")
        http.request(name[:10].upper() if i % 2 else "GET", f"/v1/{name}")

    strange(0)
    strange(1)
    before = scrape(gateway.url)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(strange, range(1000)))
    after = scrape(gateway.url)
    asked = sum(
        after.value(REQUESTS, outcome=outcome) - before.value(REQUESTS, outcome=outcome)
        for outcome in ("ok", "rejected")
    )
    assert asked == 4500  # methods that are none are refused by the HTTP parser
    known = {json.dumps([sample.name, sample.labels]) for sample in before.samples}
    new = {json.dumps([sample.name, sample.labels]) for sample in after.samples} - known
    assert len(new) <= 20, sorted(new)


@pytest.fixture
def second(loaded: str, simulated: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    service = processes.gateway(
        logs / "second.log", simulated.url, milvus_lite.url, collection=loaded, min_score=MIN_SCORE
    )
    yield service.start()
    service.stop()


def test_each_gateway_process_counts_its_own_so_that_their_sum_is_right(gateway: Service, second: Service) -> None:
    before = [scrape(service.url).value(REQUESTS, outcome="ok") for service in (gateway, second)]
    for service, times in ((gateway, 2), (second, 3)):
        with asking.client(service.url) as http:
            for _ in range(times):
                http.post("/ask", json={"question": QUESTION}).raise_for_status()
    after = [scrape(service.url).value(REQUESTS, outcome="ok") for service in (gateway, second)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 3]
