"""What real services send to Loki, at their most talkative: lines of all of them, and no key and no text of a user."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.telemetry import REQUEST_EVENT
from tests.support import asking, processes
from tests.support.loki_server import LokiServer
from tests.support.processes import Service
from tests.support.stack import MIN_SCORE, QUESTION, SAMPLE

KEY = "team-key-zq81fh27"
WRONG_KEY = "wrong-key-zq81fh27"
MILVUS_TOKEN = "root:milvus-token-zq81fh27"
LOKI_PASSWORD = "loki-password-zq81fh27"
TEXT = 'Does "Ulmenhorst" say that my aunt\'s gallbladder, removed in Quedlinburg, was stolen with the table clock?'
TELLING = ("zq81fh27", "gallbladder", "Ulmenhorst", "Quedlinburg")
PASSAGES = ("measles", "linen cupboard", "Norvane", "Bellmarsh")
"""Words of the sample corpus, which the good questions find."""


@dataclass(frozen=True)
class Services:
    """Gateways over: models that answer, models that fail half-way, and a Milvus that is not there."""

    loki: LokiServer
    models: Service
    good: Service
    failing: Service
    searchless: Service
    output: list[Path]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, milvus_lite: Service) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("privacy")
    keys = json.dumps({"team": {"key": KEY}})
    with LokiServer() as loki, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHAROS_LOKI_URL", loki.url)
        patch.setenv("PHAROS_LOKI_USER", "pharos")
        patch.setenv("PHAROS_LOKI_PASSWORD", LOKI_PASSWORD)
        patch.setenv("PHAROS_ENVIRONMENT", "test")
        models = processes.simulated_model_service(folder / "models.log", log_level="debug")
        broken = processes.simulated_model_service(
            folder / "broken.log", log_level="debug", simulated_failure_rate=1, simulated_answer_tokens=4
        )
        nowhere = f"http://127.0.0.1:{processes.free_port()}"

        def gateway(name: str, model_url: str, milvus_uri: str) -> Service:
            return processes.gateway(
                folder / f"{name}.log",
                model_url,
                milvus_uri,
                api_keys=keys,
                milvus_token=MILVUS_TOKEN,
                collection="privacy",
                min_score=MIN_SCORE,
                log_level="debug",
            )

        good = gateway("good", models.url, milvus_lite.url)
        failing = gateway("failing", broken.url, milvus_lite.url)
        searchless = gateway("searchless", models.url, nowhere)
        job = processes.ingestion(
            folder / "job.log", models.url, milvus_lite.url, "--dataset", SAMPLE,
            collection="privacy", milvus_token=MILVUS_TOKEN,
        )  # fmt: skip
        try:
            for service in (models, broken):
                service.start()
            assert job.run() == 0, job.tail()
            for service in (good, failing):
                service.start()
            searchless.start(processes.answers_healthy)
            yield Services(loki, models, good, failing, searchless, sorted(folder.glob("*.log")))
        finally:
            for service in (good, failing, searchless, models, broken):
                service.stop()


def statuses(url: str) -> set[int]:
    """Everything that can be asked well or badly, with TEXT in it wherever there is room for it."""
    authorized = {"Authorization": f"Bearer {KEY}"}
    good = {"question": TEXT, "max_tokens": 4}
    chat = {"model": "simulated", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 4}
    bodies: list[tuple[str, object]] = [
        ("/ask", good),
        ("/ask", {**good, "stream": True}),
        ("/ask", {**good, "topics": [TEXT]}),
        ("/ask", {"question": [TEXT]}),
        ("/ask", {"question": {"text": TEXT}}),
        ("/ask", {**good, "top_k": TEXT}),
        ("/ask", {**good, TEXT: 1}),
        ("/ask", {"question": TEXT * 100}),
        ("/ask", TEXT),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/chat/completions", {**chat, "messages": [{"role": TEXT, "content": TEXT}]}),
        ("/v1/chat/completions", {**chat, "model": TEXT}),
        ("/v1/completions", {"model": "simulated", "prompt": TEXT, "stop": [TEXT], "max_tokens": 4}),
        ("/v1/embeddings", {"model": "hash", "input": [TEXT]}),
        ("/v1/embeddings", {"model": "hash", "input": [[TEXT]]}),
        ("/generate", {"prompts": [{"text": TEXT}]}),
        ("/generate", {"prompts": TEXT}),
        ("/encode", {"texts": TEXT}),
    ]
    seen = set()
    with asking.client(url) as http:
        for path, body in bodies:
            seen.add(http.post(path, json=body, headers=authorized).status_code)
        for headers in ({"Authorization": f"Bearer {WRONG_KEY}"}, {"X-Api-Key": WRONG_KEY}, {}):
            seen.add(http.post("/ask", json=good, headers=headers).status_code)
        json_headers = {**authorized, "Content-Type": "application/json"}
        for content in (TEXT, f'{{"question": "{TEXT}', b"\xff" + TEXT.encode()):
            seen.add(http.post("/ask", content=content, headers=json_headers).status_code)
        seen.add(http.post("/ask", content=TEXT, headers=authorized).status_code)
        seen.add(http.get(f"/{TEXT}?question={TEXT}&key={KEY}", headers=authorized).status_code)
    return seen


def leaks(text: str) -> list[str]:
    words = "|".join((*TELLING, *PASSAGES))
    return re.findall(f".{{0,200}}(?:{words}).{{0,50}}", text)


def missing(loki: LokiServer) -> list[str]:
    """What must be among the lines, and is not."""
    lines = [*loki.lines]
    wanted = {"uvicorn.error", "contracts.problems", "app_llm.generator", "setup_milvus.main"}
    found = sorted(wanted - {line.fields["logger"] for line in lines})
    if not any("exception" in line.fields for line in lines):
        found.append("a failure leaves its traceback")
    if not any("Finished server process" in line.message for line in lines):
        found.append("SIGTERM loses nothing")
    return found


def test_no_text_and_no_key_gets_out(services: Services) -> None:
    assert {200, 400, 401, 404, 415, 422} <= statuses(services.good.url)
    assert 502 in statuses(services.failing.url)
    assert 503 in statuses(services.searchless.url)
    statuses(services.models.url)
    services.models.kill()
    assert 503 in statuses(services.good.url)
    for service in (services.good, services.failing, services.searchless):
        service.stop()

    loki = services.loki
    # Those that still run, or were killed, send a line only some seconds after it was logged.
    asking.eventually(lambda: not missing(loki), 60)
    assert missing(loki) == []
    assert loki.violations == []
    assert {line.labels["service"] for line in loki.lines} == {"app", "app_llm", "setup_milvus"}
    assert {line.labels["env"] for line in loki.lines} == {"test"}
    assert leaks("\n".join(body.decode() for body in loki.raw)) == []
    basic = b64encode(f"pharos:{LOKI_PASSWORD}".encode()).decode()
    assert {push.headers["authorization"] for push in loki.pushes} == {f"Basic {basic}"}
    for path in services.output:
        assert leaks(path.read_text()) == [], path


def test_texts_are_logged_where_they_are_let_in(
    loaded: str, simulated: Service, milvus_lite: Service, tmp_path: Path
) -> None:
    with LokiServer() as loki:
        gateway = processes.gateway(
            tmp_path / "gateway.log", simulated.url, milvus_lite.url,
            collection=loaded, min_score=MIN_SCORE, loki_url=loki.url, log_texts=True,
        )  # fmt: skip
        gateway.start()
        try:
            with asking.client(gateway.url) as http:
                answer = http.post("/ask", json={"question": QUESTION, "max_tokens": 8}).json()["answer"]
        finally:
            gateway.stop()
        (line,) = [line.fields for line in loki.lines if line.fields.get("event") == REQUEST_EVENT]
        assert (line["question"], line["answer"].strip()) == (QUESTION, answer)
        assert loki.violations == []
