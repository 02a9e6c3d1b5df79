"""Questions said in more ways, through running services: models that are quick, slow or broken, and gateways."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts import telemetry
from tests.support import asking, processes, scraping
from tests.support.asking import eventually, held
from tests.support.processes import Service
from tests.support.stack import MIN_SCORE, QUESTION

STAGE_COUNT = telemetry.STAGE_SECONDS.name + "_count"


@pytest.fixture(scope="module")
def gateways(loaded: str, milvus_lite: Service, logs: Path) -> Iterator[Any]:
    """Makes gateways that are stopped in the end."""
    started: list[Service] = []

    def gateway(name: str, models: Service, **settings: object) -> Service:
        service = processes.gateway(
            logs / f"gateway-{name}.log", models.url, milvus_lite.url,
            collection=loaded, min_score=MIN_SCORE, **settings,
        )  # fmt: skip
        started.append(service.start())
        return service

    yield gateway
    for service in started:
        service.stop()


@pytest.fixture(scope="module")
def expanding(gateways: Any, simulated: Service) -> Service:
    """A gateway that phrases every question in more ways."""
    service: Service = gateways("expanding", simulated, expand="multi_query", expand_tokens=8)
    return service


@pytest.fixture(scope="module")
def slow(logs: Path) -> Iterator[Service]:
    """Models that take a hundred seconds for what is to be added to a question: whatever ends earlier was ended."""
    service = processes.simulated_model_service(
        logs / "slow-expanding.log", simulated_token_seconds=1, simulated_answer_tokens=100
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def before_slow(gateways: Any, slow: Service) -> Service:
    """A gateway that waits for them for half a second."""
    service: Service = gateways("slow-expanding", slow, expand="hyde", expand_tokens=100, expand_timeout_seconds=0.5)
    return service


def search(service: Service, **body: object) -> dict[str, Any]:
    with asking.client(service.url) as http:
        response = http.post("/search", json={"question": QUESTION, "top_k": 5, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_search_shows_the_phrasings_and_what_each_found(expanding: Service) -> None:
    answer = search(expanding, top_k=20)
    expansion = answer["expansion"]
    assert (expansion["mode"], expansion["skipped"]) == ("multi_query", None)
    assert len(expansion["texts"]) == 1, "the simulated model says one line"
    stages = {stage for hit in answer["hits"] for stage in hit["stages"]}
    assert stages == {"fused", "dense", "sparse", "phrasing_1", "expanded"}
    for hit in answer["hits"]:
        assert hit["stages"]["expanded"] == {"rank": hit["rank"], "score": hit["score"]}
        places = [hit["stages"][name]["rank"] for name in ("fused", "phrasing_1") if name in hit["stages"]]
        assert hit["score"] == pytest.approx(sum(1 / (60 + place) for place in places))
    assert answer["timings"]["expand"] > 0
    assert answer["timings"]["arrange"] >= 0


@pytest.mark.parametrize(
    ("mode", "expand"),
    [
        ("dense", "hyde"),
        ("hybrid", "hyde"),
        ("dense", "multi_query"),
        ("sparse", "multi_query"),
        ("hybrid", "multi_query"),
    ],
)
def test_scores_are_the_questions_however_it_is_expanded(expanding: Service, mode: str, expand: str) -> None:
    def scores(answer: dict[str, Any]) -> dict[str, float]:
        return {hit["passage"]["id"]: hit["passage"]["score"] for hit in answer["hits"]}

    plain = scores(search(expanding, mode=mode, expand="off", top_k=100))
    changed = scores(search(expanding, mode=mode, expand=expand, top_k=20))
    both = plain.keys() & changed.keys()
    assert len(both) > 3
    assert [changed[id] for id in both] == pytest.approx([plain[id] for id in both], abs=2e-3)


def test_nothing_is_added_where_it_is_off(expanding: Service, http: httpx.Client) -> None:
    off = search(expanding, expand="off")
    never = http.post("/search", json={"question": QUESTION, "top_k": 5}).json()
    for answer in (off, never):
        assert answer["expansion"] is None
        assert answer["timings"]["expand"] is None
    assert off["hits"] == never["hits"]


def test_an_answer_says_how_long_it_took_and_metrics_and_log_do(expanding: Service) -> None:
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with asking.client(expanding.url) as http:
            for body in ({}, {"expand": "hyde"}, {"expand": "off"}):
                answer = http.post("/ask", json={"question": QUESTION, "max_tokens": 4, **body})
                assert answer.status_code == 200, answer.text
                answers.append(answer.json())

    grown = scraping.growth(expanding.url, ask)
    for answer in answers:
        assert answer["sources"], "what is relevant to the question stays so"
        timings = answer["timings"]
        parts = [
            timings[name] or 0 for name in ("queue", "expand", "encode", "search", "arrange", "prompt", "generate")
        ]
        assert sum(parts) <= timings["total"] + 0.01
        assert answer["usage"]["completion_tokens"] == 4, "those of the answer"
    assert [answer["timings"]["expand"] is not None for answer in answers] == [True, True, False]
    assert grown(STAGE_COUNT, stage="expand") == 2
    assert grown(STAGE_COUNT, stage="arrange") == 3
    assert grown(telemetry.FIRST_TOKEN_SECONDS.name + "_count") == 3


def test_chats_about_the_documents_expand_as_is_configured(expanding: Service) -> None:
    def chat() -> None:
        body = {"model": "documents", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2}
        with asking.client(expanding.url) as http:
            assert http.post("/v1/chat/completions", json=body).status_code == 200

    assert scraping.growth(expanding.url, chat)(STAGE_COUNT, stage="expand") == 1


@pytest.mark.parametrize("path", ["/ask", "/search"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"expand": "everything"}, "'multi_query', 'hyde' or 'off'"),
        ({"expand": "hyde", "mode": "sparse"}, "by words alone"),
    ],
)
def test_what_cannot_be_done_is_refused(http: httpx.Client, path: str, body: dict[str, str], says: str) -> None:
    response = http.post(path, json={"question": QUESTION, **body})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert "expand: " in response.json()["detail"]
    assert says in response.json()["detail"]


@pytest.mark.parametrize("path", ["/ask", "/search"])
@pytest.mark.parametrize("expand", ["multi_query", "hyde"])
def test_who_leaves_while_the_llm_still_phrases_frees_its_slot(
    before_slow: Service, slow: Service, path: str, expand: str
) -> None:
    assert eventually(lambda: held(slow.url) == 0)
    host, _, port = before_slow.url.removeprefix("http://").partition(":")
    body = json.dumps({"question": QUESTION, "expand": expand}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert eventually(lambda: held(slow.url) == 1)
    assert eventually(lambda: held(slow.url) == 0)


def test_a_model_that_is_too_slow_is_not_waited_for(before_slow: Service, slow: Service) -> None:
    answers: list[dict[str, Any]] = []
    grown = scraping.growth(before_slow.url, lambda: answers.append(search(before_slow)))
    assert answers[0]["expansion"] == {"mode": "hyde", "texts": [], "skipped": "deadline_exceeded"}
    assert "Bellmarsh" in answers[0]["hits"][0]["passage"]["title"]
    assert grown(telemetry.EXPAND_SKIPPED.name, reason="deadline_exceeded") == 1
    assert eventually(lambda: held(slow.url) == 0)


def test_who_insists_waits_as_long_as_the_request_may_take(before_slow: Service) -> None:
    with asking.client(before_slow.url) as http:
        response = http.post(
            "/search", json={"question": QUESTION, "expand": "hyde"}, headers={"X-Request-Timeout": "1"}
        )
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


def test_a_model_that_fails_costs_nobody_the_search_who_does_not_insist(gateways: Any, logs: Path) -> None:
    broken = processes.simulated_model_service(
        logs / "broken-expanding.log", simulated_failure_rate=1, simulated_token_seconds=0
    )
    broken.start()
    try:
        service = gateways("broken-expanding", broken, expand="multi_query")
        answers: list[dict[str, Any]] = []
        grown = scraping.growth(service.url, lambda: answers.extend(search(service) for _ in range(3)))
        (skipped,) = {answer["expansion"]["skipped"] for answer in answers}
        assert grown(telemetry.EXPAND_SKIPPED.name, reason=skipped) == 3
        assert "Bellmarsh" in answers[0]["hits"][0]["passage"]["title"]
        assert service.log.read_text().count("questions are searched as they are") == 1
        with asking.client(service.url) as http:
            refused = http.post("/search", json={"question": QUESTION, "expand": "multi_query"})
        assert (refused.status_code, refused.json()["code"]) == (502, skipped)
    finally:
        broken.stop()
