"""The steps between the search and the prompt, through the gateway: what requests and settings switch."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from app.ranking.answerability import FEATURES, Calibration
from tests.support import asking, processes
from tests.support.processes import Service
from training import answerability

QUESTION = "What did the council of Norvane decide about the harbour?"
OLD, NEW = "2001-02-03", "2026-01-02"
REPORT = "The council of Norvane met and the council did decide that the harbour is to be dredged in the spring by {}."
LONG = " ".join(f"Paragraph {i} of the harbour story tells of quay {i} and crane {i}." for i in range(60))
ARTICLES = [
    ("Harbour", REPORT.format("Bell"), OLD, "city"),
    ("Harbour", REPORT.format("Bell") + " More follows.", NEW, "city"),
    ("Storm", "A storm took the roof of the old mill and the council of Norvane will pay for it.", NEW, "weather"),
    ("The harbour, a long story", LONG, "2015-05-05", "history"),
]


@pytest.fixture(scope="module")
def collection(simulated: Service, milvus_lite: Service, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ranking") / "articles.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Heading", "Article", "Date", "NewsType"])
        writer.writerows(ARTICLES)
    job = processes.ingestion(
        logs / "ranking.log", simulated.url, milvus_lite.url, "--dataset", str(path), collection="ranking",
        chunk_tokens=64, chunk_overlap_tokens=10,
    )  # fmt: skip
    assert job.run() == 0, job.tail()
    return "ranking"


@pytest.fixture(scope="module")
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that find every question doubtful: one for the encoder that is served, one for another."""
    folder = tmp_path_factory.mktemp("calibrations")
    zeros = tuple(0.0 for _ in FEATURES)
    ones = tuple(1.0 for _ in FEATURES)
    doubts = Calibration("hash", FEATURES, zeros, ones, zeros, -3.0, 0.5, "nothing")
    (folder / "doubts.json").write_bytes(msgspec.json.encode(doubts))
    (folder / "other.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(doubts, encoder="another")))
    return folder


def gateway(name: str, simulated: Service, milvus_lite: Service, logs: Path, **settings: object) -> Iterator[Service]:
    service = processes.gateway(
        logs / f"gateway-{name}.log", simulated.url, milvus_lite.url, collection="ranking", min_score=-1, **settings
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def http(collection: str, simulated: Service, milvus_lite: Service, logs: Path) -> Iterator[httpx.Client]:
    for service in gateway(collection, simulated, milvus_lite, logs):
        with asking.client(service.url) as client:
            yield client


def search(http: httpx.Client, question: str = QUESTION, **body: object) -> list[dict[str, Any]]:
    response = http.post("/search", json={"question": question, "top_k": 4, **body})
    assert response.status_code == 200, response.text
    hits: list[dict[str, Any]] = response.json()["hits"]
    return hits


def titles(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["passage"]["title"] for hit in hits]


def test_a_report_that_comes_again_is_there_once(http: httpx.Client) -> None:
    assert titles(search(http)).count("Harbour") == 2
    hits = search(http, ranking={"duplicates_above": 0.7})
    assert titles(hits).count("Harbour") == 1
    assert len(hits) == 4, "what was dropped makes room"
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]


def test_of_two_alike_the_newer_is_kept_where_age_counts(http: httpx.Client) -> None:
    hits = search(http, ranking={"duplicates_above": 0.7, "half_life_days": 365})
    assert [hit["passage"]["date"] for hit in hits if hit["passage"]["title"] == "Harbour"] == [NEW]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_variety_keeps_the_best_and_brings_others_forward(http: httpx.Client, mode: str) -> None:
    plain, varied = search(http, mode=mode), search(http, mode=mode, ranking={"mmr_lambda": 0.3})
    assert titles(plain)[:2] == ["Harbour", "Harbour"]
    assert titles(varied)[0] == "Harbour"
    assert titles(varied)[1] != "Harbour"


def test_chunks_are_handed_over_as_their_document(http: httpx.Client) -> None:
    question = "What does paragraph 30 tell of quay 30?"
    (hit,) = search(http, question, top_k=1)
    assert hit["passage"]["chunk"] > 0
    assert len(hit["passage"]["text"]) < len(LONG) / 3
    (parent,) = search(http, question, top_k=1, ranking={"parent_tokens": 4000})
    assert parent["passage"]["text"] == LONG
    assert parent["passage"]["id"] == hit["passage"]["id"]
    assert parent["stages"].keys() == hit["stages"].keys()


def test_neighbours_that_were_found_are_one_passage(http: httpx.Client) -> None:
    apart = search(http, "Paragraph quay crane harbour story", top_k=12)
    joined = search(http, "Paragraph quay crane harbour story", top_k=12, ranking={"join_neighbours": True})
    assert titles(apart).count("The harbour, a long story") > 5
    longest = max((hit["passage"] for hit in joined), key=lambda passage: len(passage["text"]))
    assert longest["chunks"][1] > longest["chunks"][0]
    assert longest["text"] in LONG
    assert len(joined) < len(apart)


def test_an_answer_has_them_too(http: httpx.Client) -> None:
    answer = http.post(
        "/ask", json={"question": QUESTION, "ranking": {"duplicates_above": 0.7, "prompt_order": "ends"}}
    ).json()
    assert [source["title"] for source in answer["sources"]].count("Harbour") == 1


@pytest.mark.parametrize("ranking", [{"mmr_lambda": 2}, {"half_life_days": 0}, {"unknown": 1}, {"prompt_order": "x"}])
def test_what_means_nothing_is_refused(http: httpx.Client, ranking: dict[str, object]) -> None:
    for path in ("/ask", "/search"):
        response = http.post(path, json={"question": QUESTION, "ranking": ranking})
        assert response.status_code == 422
        assert next(iter(ranking)) in response.text


def test_a_question_says_when_and_what(http: httpx.Client) -> None:
    assert {hit["passage"]["date"] for hit in search(http, f"{QUESTION[:-1]} in 2001?", self_query=True)} == {OLD}
    assert set(titles(search(http, "What is new about weather?", self_query=True))) == {"Storm"}
    assert len(search(http, "What was new in 1950 about weather?", self_query=True)) == 4, "nothing is of that year"
    assert len({hit["passage"]["date"] for hit in search(http, f"{QUESTION[:-1]} in 2001?")}) > 1


def test_settings_are_for_every_question_that_does_not_say(
    collection: str, simulated: Service, milvus_lite: Service, logs: Path
) -> None:
    settings = {"ranking": '{"duplicates_above": 0.7}', "self_query": "true"}
    for service in gateway(f"{collection}-set", simulated, milvus_lite, logs, **settings):
        with asking.client(service.url) as http:
            assert titles(search(http)).count("Harbour") == 1
            assert titles(search(http, ranking={"duplicates_above": None})).count("Harbour") == 2
            assert set(titles(search(http, "What is new about weather?"))) == {"Storm"}
            assert len(search(http, "What is new about weather?", self_query=False)) == 4


def test_a_question_that_is_doubted_is_refused_without_the_model(
    collection: str, calibrations: Path, simulated: Service, milvus_lite: Service, logs: Path
) -> None:
    doubting = {"answerability": calibrations / "doubts.json"}
    for service in gateway(f"{collection}-doubts", simulated, milvus_lite, logs, **doubting):
        with asking.client(service.url) as http:
            answer = http.post("/ask", json={"question": QUESTION}).json()
            assert (answer["finish_reason"], answer["answer"]) == ("nothing_relevant", "Not in the documents.")
            assert answer["usage"]["completion_tokens"] == 0
            for threshold in (0, 0.01):
                sure = {"question": QUESTION, "ranking": {"answerable_above": threshold}, "max_tokens": 4}
                assert http.post("/ask", json=sure).json()["sources"]
            assert search(http), "a search shows what there is"


def test_a_calibration_for_another_encoder_refuses_nothing_and_says_so(
    collection: str, calibrations: Path, simulated: Service, milvus_lite: Service, logs: Path
) -> None:
    other = {"answerability": calibrations / "other.json"}
    for service in gateway(f"{collection}-other", simulated, milvus_lite, logs, **other):
        with asking.client(service.url) as http:
            for _ in range(2):
                assert http.post("/ask", json={"question": QUESTION, "max_tokens": 4}).json()["sources"]
        assert (logs / f"gateway-{collection}-other.log").read_text().count("calibration is for the encoder") == 1


def test_a_calibration_is_made_through_a_gateway_and_used_by_one(
    http: httpx.Client,
    collection: str,
    simulated: Service,
    milvus_lite: Service,
    logs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [
        *((f"What does paragraph {i} of the harbour story tell of quay {i} and crane {i}?", False) for i in range(30)),
        *((f"Why was Zanzibar {i} painted mauve by Quentin?", True) for i in range(30)),
    ]
    rows = [
        {"_id": str(i), "text": text, "metadata": {"article": f"a{i % 5}", "is_impossible": impossible}}
        for i, (text, impossible) in enumerate(asked)
    ]
    (tmp_path / "queries.dev.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    out = tmp_path / "answerability.json"
    arguments = ["--set", str(tmp_path), "--gateway", str(http.base_url), "--encoder", "hash", "--out", str(out)]
    assert answerability.main(arguments) == 0
    assert "{'answerable': 30, 'unanswerable': 30, 'foreign': 0}" in capsys.readouterr().out
    for service in gateway(f"{collection}-calibrated", simulated, milvus_lite, logs, answerability=out):
        with asking.client(service.url) as calibrated:

            def refused(question: str) -> bool:
                answer = calibrated.post("/ask", json={"question": question, "max_tokens": 4}).json()
                return bool(answer["finish_reason"] == "nothing_relevant")

            assert sum(refused(question) for question, impossible in asked if impossible) >= 27
            assert sum(refused(question) for question, impossible in asked if not impossible) <= 6


def test_a_gateway_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"_id": "1", "text": "Who?", "metadata": {"is_impossible": False}}
    (tmp_path / "queries.jsonl").write_bytes(msgspec.json.encode(row))
    url = f"http://127.0.0.1:{processes.free_port()}"
    assert answerability.main(["--set", str(tmp_path), "--gateway", url, "--encoder", "hash"]) == 1
    assert "ConnectError" in capsys.readouterr().err
