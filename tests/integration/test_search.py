"""POST /search, and what modes and filters do to both ways to ask."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import asking, processes
from tests.support.processes import Service
from tests.support.stack import MIN_SCORE

QUESTION = "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"
NAME = "What did he do about Zelminster?"
"""Dense search prefers the many passages that are all about what somebody did say."""
HOSTILE = ['x" or author != "', "\\", "'", '"] or id != "', "x or 1 == 1", "Ёлкин\u2028"]


@pytest.fixture(scope="module")
def names(simulated: Service, milvus_lite: Service, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection of many passages that are alike, and one, long and about something else, with a name in it."""
    path = tmp_path_factory.mktemp("names") / "articles.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Article", "Date", "Heading", "NewsType", "By", "Desk"])
        for i in range(40):
            text = f"What did the new owner say? The new owner did tell what the owner of house {i} did."
            writer.writerow([text, f"2025-03-{i % 28 + 1:02}", "What the new owner did say", "houses", "Ann", "city"])
        rest = " ".join(f"Barley field {i} was mown under a pale sky." for i in range(12))
        writer.writerow([f"{rest} Quorvath Zelminster left early.", "2025-05-06", "Harvest", "farms", 'O"Neil', "land"])
    job = processes.ingestion(
        logs / "names.log", simulated.url, milvus_lite.url, "--dataset", str(path),
        "--author-column", "By", "--metadata-columns", "Desk", collection="names",
    )  # fmt: skip
    assert job.run() == 0, job.tail()
    return "names"


@pytest.fixture(scope="module")
def http_names(names: str, simulated: Service, milvus_lite: Service, logs: Path) -> Iterator[httpx.Client]:
    # By ranks: cosines of hashed words say too little of meaning to be weighed against the words themselves.
    service = processes.gateway(
        logs / "gateway-names.log",
        simulated.url,
        milvus_lite.url,
        collection=names,
        min_score=MIN_SCORE,
        fusion="ranks",
    )
    service.start()
    with asking.client(service.url) as client:
        yield client
    service.stop()


def search(http: httpx.Client, question: str = NAME, **body: object) -> dict[str, Any]:
    response = http.post("/search", json={"question": question, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def headings(answer: dict[str, Any]) -> list[str]:
    return [hit["passage"]["title"] for hit in answer["hits"]]


def test_each_hit_has_each_stages_rank_and_score(http: httpx.Client) -> None:
    answer = search(http, QUESTION, top_k=5)
    assert answer["mode"] == "hybrid"
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    best = hits[0]
    assert "Bellmarsh" in best["passage"]["title"]
    assert set(best["stages"]) == {"fused", "dense", "sparse"}
    assert best["stages"]["dense"]["score"] == pytest.approx(best["passage"]["score"], abs=1e-3)
    for hit in hits:
        fused = hit["stages"]["fused"]
        assert (fused["rank"], fused["score"]) == (hit["rank"], hit["score"])
        assert set(hit["stages"]) > {"fused"}, "no leg knows it"
    for stage in ("dense", "sparse"):
        of_stage = sorted((s["rank"], s["score"]) for hit in hits if (s := hit["stages"].get(stage)))
        scores = [score for _, score in of_stage]
        assert scores == sorted(scores, reverse=True)
    assert answer["timings"].pop("rerank") is None, "no reranker is served"
    assert answer["timings"].pop("expand") is None
    assert all(seconds >= 0 for seconds in answer["timings"].values())
    assert answer["request_id"]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_one_leg_alone_is_its_own_stage(http: httpx.Client, mode: str) -> None:
    answer = search(http, QUESTION, mode=mode, top_k=3)
    assert answer["mode"] == mode
    assert {stage for hit in answer["hits"] for stage in hit["stages"]} == {mode}
    assert "Bellmarsh" in headings(answer)[0]


def test_without_stages_there_are_none(http: httpx.Client) -> None:
    assert all(hit["stages"] == {} for hit in search(http, QUESTION, stages=False)["hits"])


def test_a_rare_name_that_vectors_miss_is_found_by_words(http_names: httpx.Client) -> None:
    assert "Harvest" not in headings(search(http_names, mode="dense", top_k=10))
    for mode in ("sparse", "hybrid"):
        assert "Harvest" in headings(search(http_names, mode=mode, top_k=10))[:2]
    dense = http_names.post("/ask", json={"question": "Zelminster?", "mode": "dense", "max_tokens": 2}).json()
    assert (dense["mode"], dense["finish_reason"]) == ("dense", "nothing_relevant")
    hybrid = http_names.post("/ask", json={"question": "Zelminster?", "max_tokens": 2}).json()
    assert hybrid["mode"] == "hybrid"
    assert [source["title"] for source in hybrid["sources"]] == ["Harvest"]
    assert hybrid["sources"][0]["score"] < MIN_SCORE, "relevant by its words alone"


def test_a_stream_says_how_it_searched(http_names: httpx.Client) -> None:
    for mode in ("dense", "sparse", "hybrid"):
        name, data = asking.stream(http_names, question=NAME, mode=mode, max_tokens=2)[0]
        assert (name, data["mode"]) == ("meta", mode)


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize(
    ("filters", "topics"),
    [
        ({"date_from": "2025-04-01"}, {"farms"}),
        ({"date_to": "2025-04-01"}, {"houses"}),
        ({"date_from": "2025-03-28", "date_to": "2025-05-06"}, {"houses", "farms"}),
        ({"authors": ['O"Neil']}, {"farms"}),
        ({"authors": ['O"Neil', "Ann"]}, {"houses", "farms"}),
        ({"metadata": {"Desk": "land"}}, {"farms"}),
        ({"metadata": {"Desk": ["land", "city"]}}, {"houses", "farms"}),
        ({"metadata": {"Desk": "land"}, "authors": ["Ann"]}, set()),
    ],
)
def test_filters_narrow_every_mode(
    http_names: httpx.Client, mode: str, filters: dict[str, object], topics: set[str]
) -> None:
    question = "The new owner or Zelminster?"
    hits = search(http_names, question, mode=mode, filters=filters, top_k=100)["hits"]
    assert {hit["passage"]["topic"] for hit in hits} == topics
    asked = http_names.post("/ask", json={"question": NAME, "mode": mode, "filters": filters, "max_tokens": 1}).json()
    assert {source["topic"] for source in asked["sources"]} <= topics


def test_a_document_by_its_id(http_names: httpx.Client) -> None:
    (hit,) = search(http_names, topic="farms", top_k=1)["hits"]
    document = hit["passage"]["document_id"]
    found = search(http_names, filters={"document_ids": [document]})["hits"]
    assert {hit["passage"]["document_id"] for hit in found} == {document}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_filter_breaks_out(http_names: httpx.Client, value: str) -> None:
    for filters in ({"authors": [value]}, {"document_ids": [value, "x"]}, {"metadata": {"Desk": [value]}}):
        assert search(http_names, filters=filters)["hits"] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"filters": {"date_from": "2025-13-01"}}, "date_from"),
        ({"filters": {"date_from": "2025-02-01", "date_to": "2025-01-01"}}, "after"),
        ({"filters": {"colour": "red"}}, "colour"),
        ({"filters": {"authors": []}}, "authors"),
        ({"filters": {"authors": ["a\nb"]}}, "authors"),
        ({"filters": {"authors": ["\ud800"]}}, "unicode"),
        ({"filters": {"metadata": {'a"] or id != "': "x"}}}, "name of a field"),
        ({"mode": "both"}, "mode"),
        ({"top_k": 101}, "at most 100"),
        ({"rerank": True}, "no reranker"),
        ({"question": " "}, "ask something"),
        ({"topic": "nowhere"}, "Unknown topic"),
    ],
)
def test_what_is_not_valid_is_refused(http_names: httpx.Client, body: dict[str, object], says: str) -> None:
    content = json.dumps({"question": NAME, **body})
    response = http_names.post("/search", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert says in response.json()["detail"]
