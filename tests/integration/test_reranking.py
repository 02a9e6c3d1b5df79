"""Reranking through running services: a model service that scores by shared words, Milvus Lite, and gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts import telemetry
from tests.support import asking, processes, scraping
from tests.support.processes import Service
from tests.support.stack import MIN_SCORE
from training.mining import gateway_search

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"


@pytest.fixture(scope="module")
def overlap(logs: Path) -> Iterator[Service]:
    """A model service whose reranker can be."""
    service = processes.simulated_model_service(logs / "overlap.log", reranker="overlap", simulated_token_seconds=0)
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def reranked(loaded: str, overlap: Service, milvus_lite: Service, logs: Path) -> Iterator[httpx.Client]:
    """The gateway before it."""
    service = processes.gateway(
        logs / "gateway-rerank.log", overlap.url, milvus_lite.url,
        collection=loaded, min_score=MIN_SCORE, rerank_candidates=20,
    )  # fmt: skip
    service.start()
    with asking.client(service.url) as client:
        yield client
    service.stop()


def search(http: httpx.Client, **body: object) -> dict[str, Any]:
    response = http.post("/search", json={"question": QUESTION, "top_k": 5, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_hits_have_the_rerankers_rank_and_score_beside_those_of_the_search(reranked: httpx.Client) -> None:
    answer = search(reranked)
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert "Bellmarsh" in hits[0]["passage"]["title"]
    for hit in hits:
        assert hit["stages"]["rerank"] == {"rank": hit["rank"], "score": hit["score"]}
        assert 1 <= hit["stages"]["fused"]["rank"] <= 20
        assert 0 <= hit["score"] <= 1
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert answer["timings"]["rerank"] > 0


def test_the_order_is_the_rerankers_over_more_than_is_wanted(reranked: httpx.Client) -> None:
    wide = search(reranked, top_k=20, rerank=False, stages=False)["hits"]
    assert "rerank" not in wide[0]["stages"]
    words = [word.strip("?.,") for word in QUESTION.lower().split()]

    def shared(hit: dict[str, Any]) -> int:
        text = f"{hit['passage']['title']}\n{hit['passage']['text']}".lower()
        there = {word.strip("?.,:;\"'()") for word in text.split()}
        return sum(word in there for word in set(words))

    best = max(map(shared, wide))
    assert shared(search(reranked, top_k=1)["hits"][0]) == best


def test_answers_are_made_of_reranked_passages_and_say_how_long_it_took(reranked: httpx.Client) -> None:
    by_search = reranked.post("/ask", json={"question": QUESTION, "top_k": 3, "rerank": False}).json()
    by_reranker = reranked.post("/ask", json={"question": QUESTION, "top_k": 3}).json()
    assert by_search["timings"]["rerank"] is None
    assert by_reranker["timings"]["rerank"] > 0
    assert "Bellmarsh" in by_reranker["sources"][0]["title"]


def test_without_a_reranker_nothing_changes_and_who_insists_is_told(http: httpx.Client) -> None:
    answer = search(http)
    assert all("rerank" not in hit["stages"] for hit in answer["hits"])
    assert answer["timings"]["rerank"] is None
    refused = http.post("/search", json={"question": QUESTION, "rerank": True})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "no reranker" in refused.json()["detail"]


def test_questions_at_the_same_time_share_calls(reranked: httpx.Client, overlap: Service) -> None:
    search(reranked)
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with ThreadPoolExecutor(24) as threads:
            answers.extend(threads.map(lambda _: search(reranked, stages=False), range(24)))

    batches = []

    def ask_and_count() -> None:
        here = scraping.growth(str(reranked.base_url), ask)
        batches.extend(here(telemetry.BATCH_ITEMS.name + part, kind="rerank") for part in ("_sum", "_count"))

    there = scraping.growth(overlap.url, ask_and_count)
    assert all(answer["hits"] == answers[0]["hits"] for answer in answers)
    assert there(telemetry.RERANKED_PAIRS.name) == 24 * 20
    questions, calls = batches
    assert questions == 24
    assert calls < 24


def test_a_trainer_sees_what_the_reranker_would(reranked: httpx.Client) -> None:
    async def mined() -> list[str]:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            found = await gateway_search(http, str(reranked.base_url).rstrip("/"), 7, "hybrid")(QUESTION)
        return [candidate.text for candidate in found]

    hits = search(reranked, top_k=7, rerank=False)["hits"]
    assert asyncio.run(mined()) == [f"{hit['passage']['title']}\n{hit['passage']['text']}" for hit in hits]
