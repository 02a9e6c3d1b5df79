"""The caches of a running gateway, over the simulated model service and a collection of its own in Milvus Lite."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from contracts import telemetry
from tests.support import asking, processes
from tests.support.processes import Service
from tests.support.scraping import growth, scrape
from tests.support.stack import MIN_SCORE, QUESTION, SAMPLE

KEYS = {name: {"key": f"the-key-of-{name}"} for name in ("ann", "bob")}
LOOKUPS = telemetry.CACHE_LOOKUPS.name
REWORDED = "How much did NORVANE Foods agree to pay for Bellmarsh Dairy, please?"
"""One word more: a cosine of 0.96 by the hash encoder."""

Ingest = Callable[..., int]


@pytest.fixture(scope="module")
def collection(milvus_lite: Service, simulated: Service, logs: Path) -> str:
    """Of its own, since it changes."""
    name = f"cached_{uuid4().hex[:8]}"
    job = processes.ingestion(
        logs / "caching.log", simulated.url, milvus_lite.url, "--dataset", SAMPLE, collection=name
    )
    assert job.run() == 0, job.tail()
    return name


@pytest.fixture(scope="module")
def cached(collection: str, simulated: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    service = processes.gateway(
        logs / "gateway-caching.log", simulated.url, milvus_lite.url, collection=collection, min_score=MIN_SCORE,
        cache_vectors=100, cache_answers=100, cache_similarity=0.9, cache_version_seconds=0, cache_settle_seconds=0,
        api_keys=json.dumps(KEYS),
    )  # fmt: skip
    yield service.start()
    service.stop()


def of(cached: Service, user: str) -> Iterator[httpx.Client]:
    with asking.client(cached.url) as client:
        client.headers["Authorization"] = f"Bearer the-key-of-{user}"
        yield client


@pytest.fixture
def ann(cached: Service) -> Iterator[httpx.Client]:
    yield from of(cached, "ann")


@pytest.fixture
def bob(cached: Service) -> Iterator[httpx.Client]:
    yield from of(cached, "bob")


@pytest.fixture
def question() -> str:
    """One that no other test asks: a word that means nothing, between words that are found."""
    return f"How much did Norvane Foods agree to pay for Bellmarsh Dairy {uuid4().hex}?"


def ask(http: httpx.Client, question: str, headers: dict[str, str] | None = None, **body: object) -> dict[str, Any]:
    response = http.post("/ask", json={"question": question, "max_tokens": 8, **body}, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_same_question_is_answered_once(cached: Service, ann: httpx.Client, question: str) -> None:
    first = ask(ann, question)
    assert first["cached"] is None
    again: list[dict[str, Any]] = []
    grew = growth(cached.url, lambda: again.append(ask(ann, question.replace(" ", "  "))))
    (second,) = again
    assert second["cached"] == "exact"
    for same in ("answer", "sources", "mode", "finish_reason"):
        assert second[same] == first[same]
    assert second["usage"] == {"prompt_tokens": 0, "completion_tokens": 0}
    timings = second["timings"]
    assert {name for name, value in timings.items() if value is None} == {
        "expand", "encode", "search", "rerank", "arrange", "prompt", "time_to_first_token", "generate",
    }  # fmt: skip
    assert 0 < timings["total"] != first["timings"]["total"], "its own time"
    assert grew(LOOKUPS, cache="answers") == grew(LOOKUPS, cache="answers", result="exact") == 1
    assert grew("pharos_requests_total", route="/ask", outcome="ok") == 1
    assert grew("pharos_no_first_token_total") == grew("pharos_no_first_token_total", reason="cached") == 1
    assert grew("pharos_stage_duration_seconds_count", stage="total") == 1
    for untouched in (
        "pharos_time_to_first_token_seconds_count", "pharos_generation_tokens_total", "pharos_prompt_tokens_total",
        "pharos_best_score_count", "pharos_not_in_documents_total",
    ):  # fmt: skip
        assert grew(untouched) == 0, untouched
    for stage in ("queue", "encode", "search", "prompt", "generate"):
        assert grew("pharos_stage_duration_seconds_count", stage=stage) == 0, stage


def test_a_question_in_about_the_same_words_gets_the_answer_too(cached: Service, ann: httpx.Client) -> None:
    first = ask(ann, QUESTION)
    again: list[dict[str, Any]] = []
    grew = growth(cached.url, lambda: again.append(ask(ann, REWORDED)))
    assert (again[0]["cached"], again[0]["answer"]) == ("semantic", first["answer"])
    assert again[0]["timings"]["encode"] > 0
    assert grew(LOOKUPS, cache="answers", result="semantic") == grew(LOOKUPS, cache="vectors", result="miss") == 1
    assert grew("pharos_stage_duration_seconds_count", stage="encode") == 1
    assert ask(ann, REWORDED + " In 2019?")["cached"] is None


def test_what_is_searched_is_encoded_once(cached: Service, ann: httpx.Client, question: str) -> None:
    grew = growth(cached.url, lambda: [ann.post("/search", json={"question": question}) for _ in range(3)])
    assert grew(LOOKUPS, cache="vectors", result="miss") == 1
    assert grew(LOOKUPS, cache="vectors", result="exact") == 2
    assert grew("pharos_batch_items_sum", kind="encode") == 1
    grew = growth(cached.url, lambda: ask(ann, question))
    assert grew(LOOKUPS, cache="vectors", result="exact") == 2  # to look for an answer, and to search
    assert grew("pharos_batch_items_sum", kind="encode") == 0


def test_nobody_sees_the_answer_of_another_key(ann: httpx.Client, bob: httpx.Client, question: str) -> None:
    ask(ann, question)
    assert ask(bob, question)["cached"] is None
    assert ask(bob, question)["cached"] == ask(ann, question)["cached"] == "exact"


@pytest.mark.parametrize(
    "other",
    [
        {"topic": "business"}, {"top_k": 4}, {"max_tokens": 9}, {"mode": "dense"},
        {"filters": {"date_to": "2030-01-01"}}, {"ranking": {"min_score": 0.1}}, {"self_query": True},
        {"rerank": False},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_an_answer_that_was_made_otherwise_is_another(
    ann: httpx.Client, question: str, other: dict[str, object]
) -> None:
    ask(ann, question)
    assert ask(ann, question, **other)["cached"] is None
    assert ask(ann, question, **other)["cached"] == "exact"


def test_a_request_says_what_caches_may_do(cached: Service, ann: httpx.Client, question: str) -> None:
    no_store, no_cache = {"Cache-Control": "no-store"}, {"Cache-Control": "max-age=0, No-Cache"}
    grew = growth(cached.url, lambda: ask(ann, question, no_store))
    assert grew(LOOKUPS, cache="answers", result="skipped") == 1
    assert ask(ann, question, no_cache)["cached"] is None  # nor had that one been kept
    assert ask(ann, question)["cached"] == "exact"
    assert ask(ann, question, no_store)["cached"] is ask(ann, question, no_cache)["cached"] is None


def test_what_is_drawn_at_random_is_never_kept(ann: httpx.Client, question: str) -> None:
    ask(ann, question, temperature=0.7)
    assert ask(ann, question, temperature=0.7)["cached"] is None


def test_that_nothing_is_in_the_documents_is_an_answer_too(cached: Service, ann: httpx.Client) -> None:
    question = f"zxqv {uuid4().hex}"
    assert ask(ann, question)["finish_reason"] == "nothing_relevant"
    grew = growth(cached.url, lambda: ask(ann, question))
    assert grew("pharos_no_first_token_total", reason="cached") == 1
    assert grew("pharos_not_in_documents_total") == 0


def test_a_stream_of_an_answer_that_is_there(ann: httpx.Client, question: str) -> None:
    first = asking.stream(ann, question=question, max_tokens=8)
    again = asking.stream(ann, question=question, max_tokens=8)
    assert [name for name, _ in again] == ["meta", "sources", "token", "done"]
    assert (first[0][1]["cached"], again[0][1]["cached"]) == (None, "exact")
    assert again[1] == first[1]
    assert again[2][1]["text"] == "".join(data["text"] for name, data in first if name == "token")
    assert again[3][1]["finish_reason"] == first[-1][1]["finish_reason"]
    assert again[3][1]["timings"]["generate"] is None
    assert ask(ann, question)["cached"] == "exact"  # whole or streamed is the same answer


def test_a_chat_from_the_documents_shares_them_and_one_with_the_llm_alone_is_not_kept(
    cached: Service, ann: httpx.Client, question: str
) -> None:
    def chat(model: str) -> dict[str, Any]:
        body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": question}]}
        completion: dict[str, Any] = ann.post("/v1/chat/completions", json=body).raise_for_status().json()
        return completion

    asked = ask(ann, question)
    completion = chat("documents")
    assert completion["cached"] == "exact"
    assert completion["choices"][0]["message"]["content"].strip() == asked["answer"]
    assert completion["usage"]["total_tokens"] == 0
    grew = growth(cached.url, lambda: [chat("simulated") for _ in range(2)])
    assert grew(LOOKUPS) == 0
    assert grew("pharos_generation_tokens_total") == 16


def test_a_stream_that_is_left_keeps_nothing(cached: Service, ann: httpx.Client) -> None:
    def leave(question: str) -> None:
        body = {"question": question, "stream": True, "max_tokens": 32}
        with ann.stream("POST", "/ask", json=body) as response:
            for name, _ in asking.events(response):
                if name == "token":
                    break

    # An answer takes a third of a second: where this process stalls as long it has come to its end, and shows nothing.
    for _ in range(20):
        question = f"How much did Norvane Foods agree to pay for Bellmarsh Dairy {uuid4().hex}?"
        grew = growth(cached.url, partial(leave, question))
        if grew("pharos_requests_total", route="/ask", outcome="cancelled") == 1:
            break
    else:
        raise AssertionError("nobody was seen to leave")
    assert ask(ann, question, max_tokens=32)["cached"] is None


def test_an_answer_whose_time_runs_out_is_not_kept(ann: httpx.Client, question: str) -> None:
    body = {"question": question, "max_tokens": 32}
    late = ann.post("/ask", json=body, headers={"X-Request-Timeout": "0.2"})
    assert late.status_code == 504
    assert ask(ann, question, max_tokens=32)["cached"] is None


def write(path: Path, *articles: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Article", "Date", "Heading", "NewsType"])
        writer.writerows([article, "3/14/2025", f"Heading {i}", "business"] for i, article in enumerate(articles))
    return path


@pytest.fixture
def ingest(tmp_path: Path, collection: str, simulated: Service, milvus_lite: Service) -> Ingest:
    """Load articles into the gateway's collection."""

    def run(*articles: str, arguments: tuple[str, ...] = ()) -> int:
        dataset = str(write(tmp_path / "more.csv", *articles)) if articles else SAMPLE
        job = processes.ingestion(
            tmp_path / "job.log", simulated.url, milvus_lite.url, "--dataset", dataset, *arguments,
            collection=collection,
        )  # fmt: skip
        return job.run()

    return run


def test_new_documents_end_every_answer_and_the_same_ones_none(
    cached: Service, ann: httpx.Client, question: str, ingest: Ingest
) -> None:
    ask(ann, question)
    assert ingest() == 0  # all of it is there already
    assert ask(ann, question)["cached"] == "exact"

    word = question.split()[-1].rstrip("?")
    grew = growth(cached.url, lambda: ingest(f"The {word} of Norvane Foods was sold for Bellmarsh money to pay much."))
    assert grew("pharos_cache_evictions_total") == 0  # nobody has asked since
    renewed = ask(ann, question)
    assert renewed["cached"] is None
    assert any(word in source["text"] for source in renewed["sources"])
    assert ask(ann, question)["cached"] == "exact"
    assert scrape(cached.url).value("pharos_cache_evictions_total", cache="answers", reason="outdated") >= 1
    assert scrape(cached.url).value("pharos_cache_entries", cache="answers") == 1
    assert scrape(cached.url).value("pharos_cache_bytes", cache="answers") > 1000


def test_a_collection_that_is_made_anew_is_another(ann: httpx.Client, question: str, ingest: Ingest) -> None:
    ask(ann, question)
    assert ingest(arguments=("--recreate",)) == 0
    assert ask(ann, question)["cached"] is None
    assert ask(ann, question)["cached"] == "exact"


def test_without_caches_nothing_is_looked_up(gateway: Service, http: httpx.Client) -> None:
    grew = growth(gateway.url, lambda: [ask(http, QUESTION) for _ in range(2)])
    assert grew(LOOKUPS) == grew("pharos_cache_evictions_total") == 0
    assert scrape(gateway.url).value("pharos_cache_entries") == 0
