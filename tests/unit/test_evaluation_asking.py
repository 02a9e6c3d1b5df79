"""What the evaluation sends to a gateway, and what it makes of the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from evaluation import ablation, answerability, answers, retrieval, switches
from evaluation.answer_figures import figures_of
from evaluation.asking import HttpAsker
from evaluation.finding import HttpFinder
from evaluation.gateway import Gateway
from evaluation.sets import Question
from evaluation.switches import all_off
from tests.support.beir import gzipped, write_sample

PASSAGE = {"id": "p", "topic": "news", "text": "It rained.", "score": 0.5, "title": "Broncos win", "date": "2016-02-07"}
ANSWER = {
    "answer": "The Broncos [1].",
    "sources": [
        {**PASSAGE, "document_id": "d1"},
        {**PASSAGE, "document_id": "d2", "title": "", "date": "", "text": "Of no title."},
    ],
    "usage": {"prompt_tokens": 7},
    "hits": [],
    "mode": "dense",
    "timings": {},
}


@dataclass
class Listening:
    """A gateway that gives ANSWER to everything, and keeps the questions and headers (names in lower case) that it was
    sent."""

    url: str
    headers: list[dict[str, str]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)


@pytest.fixture
def listening() -> Iterator[Listening]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            here.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            here.questions.append(body["question"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(ANSWER).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Listening(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield here
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("name", ["off", "cache", "mmr"])
async def test_only_the_cache_switch_lets_kept_answers_in(name: str, listening: Listening) -> None:
    way = all_off() if name == "off" else switches.chosen(name).on()
    async with Gateway(listening.url, "/ask", way.fields, timeout_seconds=60, headers=way.headers) as asking:
        await asking.post("Who?")
    assert listening.headers[-1].get("cache-control") == (None if name == "cache" else "no-store")


async def test_askers_and_finders_want_no_kept_answers(listening: Listening) -> None:
    async with HttpAsker(listening.url, {}) as asker, HttpFinder(listening.url, "dense", 3) as finder:
        await asker.ask("Who?")
        await finder.find("Who?")
    assert [headers["cache-control"] for headers in listening.headers] == ["no-store", "no-store"]


async def test_a_source_is_what_the_model_read_of_it(listening: Listening) -> None:
    async with HttpAsker(listening.url, {}) as asker:
        reply = await asker.ask("Who?")
    assert reply.sources == ("Broncos win (2016-02-07)\nIt rained.", "Of no title.")
    assert reply.documents == ("d1", "d2")
    figures = figures_of(Question("q", "Who?", ("Broncos",), answerable=True), reply)
    assert figures["source_recall"] == figures["citation_recall"] == 1


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (retrieval, []),
        (answers, []),
        (answerability, []),
        (ablation, ["--switch", "mmr", "--rounds", "0"]),
        (ablation, ["--switch", "join", "--rounds", "0"]),
    ],
)
def test_a_gateway_that_holds_another_set_is_no_result(
    command: ModuleType,
    options: list[str],
    listening: Listening,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sample(tmp_path / "tiny", unanswerable=["Why?"])
    place = ["--data", str(tmp_path), "--set", "tiny", "--gateway", listening.url, "--runs", str(tmp_path / "runs")]
    assert command.main([*place, *options, "--limit-queries", "2", "--concurrent", "2"]) == 1
    assert "error: no question found a document of tiny: is it this set" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_turns_are_of_foreign_questions_too(listening: Listening, tmp_path: Path) -> None:
    talk = {
        "_id": "q",
        "text": "And then?",
        "messages": [{"role": "user", "content": "What fell?"}, {"role": "user", "content": "And then?"}],
    }
    write_sample(tmp_path / "tiny")
    write_sample(tmp_path / "talks")
    gzipped(tmp_path / "talks" / "queries.dev.jsonl.gz", [talk])
    place = ["--data", str(tmp_path), "--set", "tiny", "--gateway", listening.url, "--limit-queries", "1"]
    assert answerability.main([*place, "--foreign", "talks", "--turns", "all"]) == 1
    assert "What fell?\nAnd then?" in listening.questions
