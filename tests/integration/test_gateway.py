"""The gateway's HTTP API over a real socket."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support import asking
from tests.support.processes import Service

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"


def test_an_answer_has_its_sources_usage_and_timings(http: httpx.Client) -> None:
    response = http.post("/ask", json={"question": QUESTION, "top_k": 3, "max_tokens": 8})
    assert response.status_code == 200
    answer = response.json()
    assert answer["answer"]
    assert 1 <= len(answer["sources"]) <= 3
    best = answer["sources"][0]
    assert "Bellmarsh" in best["title"]
    assert set(best) == {
        "id", "document_id", "title", "topic", "date", "score", "text", "author", "metadata",
        "chunk", "start", "chunks",
    }  # fmt: skip
    assert (best["chunk"], best["start"], best["chunks"]) == (0, 0, None)
    assert answer["mode"] == "hybrid"
    assert answer["usage"]["completion_tokens"] == 8
    timings = answer["timings"]
    assert set(timings) == {
        "queue", "encode", "search", "prompt", "time_to_first_token", "generate", "total", "rerank",
        "expand", "arrange",
    }  # fmt: skip
    assert timings.pop("rerank") is None
    assert timings.pop("expand") is None
    assert all(seconds >= 0 for seconds in timings.values())
    assert timings["time_to_first_token"] <= timings["total"]
    parts = (
        timings["queue"]
        + timings["encode"]
        + timings["search"]
        + timings["arrange"]
        + timings["prompt"]
        + timings["generate"]
    )
    assert parts <= timings["total"] + 0.01
    assert answer["request_id"] == response.headers["x-request-id"]


def test_a_stream_is_meta_sources_tokens_done(http: httpx.Client) -> None:
    events = asking.stream(http, question=QUESTION, max_tokens=6)
    names = [name for name, _ in events]
    assert names[:2] == ["meta", "sources"]
    assert set(names[2:-1]) == {"token"}
    assert names[-1] == "done"
    assert events[-1][1]["usage"]["completion_tokens"] == 6
    whole = http.post("/ask", json={"question": QUESTION, "max_tokens": 6}).json()
    assert "".join(data["text"] for name, data in events if name == "token") == whole["answer"]


def test_the_accept_header_asks_for_a_stream_too(http: httpx.Client) -> None:
    headers = {"accept": "text/event-stream"}
    with http.stream("POST", "/ask", json={"question": QUESTION, "max_tokens": 2}, headers=headers) as response:
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert [name for name, _ in asking.events(response)][-1] == "done"


def test_a_topic_keeps_all_others_out(http: httpx.Client) -> None:
    for topics in ({"topic": "sports"}, {"topics": ["sports", "health"]}):
        body = {"question": "Who won the final match of the season for the team?", "top_k": 10, **topics}
        sources = http.post("/ask", json=body).json()["sources"]
        assert sources
        assert {source["topic"] for source in sources} <= {"sports", "health"}


def test_nothing_relevant_is_said_without_the_llm(http: httpx.Client) -> None:
    # Counted when they are sent: the model service counts a call when its stream has ended, which may be any time.
    before = asking.metric(http, "pharos_batch_items_sum", kind="generate")
    answer = http.post("/ask", json={"question": "qqqq zzzz xxxx"}).json()
    assert answer["answer"] == "Not in the documents."
    assert answer["finish_reason"] == "nothing_relevant"
    assert answer["sources"] == []
    assert asking.metric(http, "pharos_batch_items_sum", kind="generate") == before


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"question": "   "}, 422, "invalid_request", "ask something"),
        ({"question": "x" * 3000}, 422, "invalid_request", "at most 2,000"),
        ({"question": 7}, 422, "invalid_request", "question"),
        ({}, 422, "invalid_request", "question"),
        ({"question": "a", "topic": "gardening"}, 422, "unknown_topic", "sports"),
        ({"question": "a", "topic": "x", "topics": ["y"]}, 422, "invalid_request", "not both"),
        ({"question": "a", "topics": []}, 422, "invalid_request", "topics"),
        ({"question": "a", "top_k": 0}, 422, "invalid_request", "top_k"),
        ({"question": "a", "top_k": 999}, 422, "invalid_request", "at most 20"),
        ({"question": "a", "max_tokens": 10**6}, 422, "invalid_request", "at most"),
        ({"question": "a", "temperature": "hot"}, 422, "invalid_request", "temperature"),
        ({"question": "a", "colour": "red"}, 422, "invalid_request", "colour"),
        ([1], 422, "invalid_request", "body"),
        ({"question": "half \ud800"}, 422, "invalid_request", "Unicode"),
        ({"question": "a", "topics": ["\ud800"]}, 422, "invalid_request", "Unicode"),
    ],
)
def test_bad_input_is_answered_with_what_to_do(
    http: httpx.Client, body: object, status: int, code: str, says: str
) -> None:
    for extra in ({}, {"accept": "text/event-stream"}):
        response = http.post("/ask", content=json.dumps(body), headers={"content-type": "application/json", **extra})
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (problem["status"], problem["code"], problem["retryable"]) == (status, code, False)
        assert says in problem["detail"]
        assert problem["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("body", [b'{"question": ', b"\xff\xfe", b"question=x"])
def test_malformed_json_is_said_to_be_that(http: httpx.Client, body: bytes) -> None:
    response = http.post("/ask", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["code"] == "malformed_json"


def test_a_body_that_is_not_declared_as_json_is_told_how(http: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl sends unless told otherwise
    response = http.post("/ask", content=b'{"question": "a"}', headers=form)
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["detail"]


def test_a_huge_body_is_refused(http: httpx.Client) -> None:
    def chunks(count: int) -> list[bytes]:
        return [b"x" * 100_000] * count

    declared = http.post("/ask", content=b"".join(chunks(20)))
    undeclared = http.post("/ask", content=iter(chunks(20)))
    assert [declared.status_code, undeclared.status_code] == [413, 413]
    assert "larger than" in declared.json()["detail"]


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    assert http.get("/nowhere").json()["code"] == "not_found"
    assert http.get("/ask").json()["code"] == "method_not_allowed"


def test_request_ids_are_taken_when_sane(http: httpx.Client) -> None:
    sane = http.get("/healthz", headers={"x-request-id": "order-66"})
    insane = http.get("/healthz", headers={"x-request-id": "a b\tc" + "x" * 100})
    assert sane.headers["x-request-id"] == "order-66"
    assert len(insane.headers["x-request-id"]) == 32


def test_the_same_request_id_twice_at_once_is_no_trouble(http: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        ask = {"json": {"question": QUESTION, "max_tokens": 4}, "headers": {"x-request-id": "twice"}}
        answers = list(pool.map(lambda _: http.post("/ask", **ask), range(8)))  # type: ignore[arg-type]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {4}


def test_a_question_that_leaves_no_room_for_a_passage_is_refused(http: httpx.Client) -> None:
    response = http.post("/ask", json={"question": "Norvane Bellmarsh " + "a " * 980})
    assert response.status_code == 413
    assert "leaves no room" in response.json()["detail"]


def test_topics_are_listed_with_their_counts(http: httpx.Client) -> None:
    topics = {topic["topic"]: topic for topic in http.get("/topics").json()["topics"]}
    assert set(topics) == {"business", "culture", "health", "science", "sports", "technology"}
    assert topics["sports"]["documents"] == 12
    assert topics["sports"]["passages"] >= 12


def test_the_other_pages_are_there(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json()["checks"] == {"model_service": True, "milvus": True}
    assert "POST /ask" in http.get("/").text
    assert http.get("/docs").status_code == 200
    assert 'pharos_stage_duration_seconds_count{stage="search"}' in http.get("/metrics").text


def test_every_field_of_the_api_has_an_example(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]["AskBody"]
    assert {name for name, field in schema["properties"].items() if not field.get("examples")} == set()


def test_questions_that_arrive_together_travel_together(gateway: Service, simulated: Service) -> None:
    with asking.client(gateway.url) as http, asking.client(simulated.url) as models:

        def calls() -> dict[str, float]:
            kinds = {"/encode": "encode", "/generate": "generate"}
            found = {kind: asking.metric(models, "http_requests_total", handler=path) for path, kind in kinds.items()}
            found["search"] = asking.metric(http, "pharos_batch_items_count", kind="search")
            return found

        before = calls()
        questions = 48
        with ThreadPoolExecutor(questions) as pool:
            body = {"question": QUESTION, "topic": "business", "max_tokens": 4}
            answers = list(pool.map(lambda _: http.post("/ask", json=body), range(questions)))
        assert [answer.status_code for answer in answers] == [200] * questions
        assert len({answer.json()["answer"] for answer in answers}) == 1
        after = calls()
        for kind in before:
            assert 0 < after[kind] - before[kind] < questions, kind
