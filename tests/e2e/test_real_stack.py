"""The whole of it with real parts: SentenceTransformer, vLLM, Milvus Lite, the sample corpus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from app.settings import Settings
from tests.support import asking, openai_clients, processes
from tests.support.otlp_server import OtlpServer, Received
from tests.support.processes import Service

SAMPLE = "setup_milvus/sample/articles.csv"
COLLECTION = "sample_real"
QUESTION = "When will the comet found by Hendrik Uirab be nearest to us?"


@pytest.fixture(scope="module")
def gateway(models: Service, milvus_lite: Service, logs: Path) -> Iterator[Service]:
    log = logs / "real-ingestion.log"
    job = processes.ingestion(log, models.url, milvus_lite.url, "--dataset", SAMPLE, collection=COLLECTION)
    assert job.run() == 0, job.tail()
    service = processes.gateway(logs / "real-gateway.log", models.url, milvus_lite.url, collection=COLLECTION)
    yield service.start()
    service.stop()


@pytest.fixture
def http(gateway: Service) -> Iterator[httpx.Client]:
    with asking.client(gateway.url) as client:
        yield client


def test_a_real_answer_streams_from_the_right_article(http: httpx.Client) -> None:
    events = asking.stream(http, question=QUESTION, topic="science", top_k=1, max_tokens=48)
    (sources,) = [data["sources"] for name, data in events if name == "sources"]
    assert "comet" in sources[0]["title"]
    tokens = [data["text"] for name, data in events if name == "token"]
    assert len(tokens) > 3
    assert "19 January" in "".join(tokens)
    name, done = events[-1]
    assert name == "done"
    assert done["usage"]["completion_tokens"] >= len(tokens)
    assert done["timings"]["time_to_first_token"] < done["timings"]["total"]


def test_no_source_comes_from_another_topic(http: httpx.Client) -> None:
    body = {"question": "Who won the final?", "topic": "business", "max_tokens": 1, "top_k": 10}
    topics = {source["topic"] for source in http.post("/ask", json=body).json()["sources"]}
    assert topics <= {"business"}
    everywhere = http.post("/ask", json={"question": "Who won the final?", "max_tokens": 1}).json()["sources"]
    assert everywhere[0]["topic"] == "sports"


def test_what_nobody_wrote_about_is_not_in_the_documents(http: httpx.Client, models: Service) -> None:
    with asking.client(models.url) as direct:
        before = asking.metric(direct, "vllm:request_success_total")
        answer = http.post("/ask", json={"question": "How do I configure a DNS server?"}).json()
        assert answer["answer"] == "Not in the documents."
        assert asking.metric(direct, "vllm:request_success_total") == before


def test_a_prompt_beyond_the_window_is_cut_to_its_budget(http: httpx.Client) -> None:
    answer = http.post("/ask", json={"question": QUESTION, "top_k": 20, "max_tokens": 1}).json()
    assert 0 < answer["usage"]["prompt_tokens"] <= Settings().prompt_tokens


def test_leaving_frees_vllms_slot(http: httpx.Client, models: Service) -> None:
    with asking.client(models.url) as direct:

        def running() -> float:
            waiting = asking.metric(direct, "vllm:num_requests_waiting")
            return asking.metric(direct, "vllm:num_requests_running") + waiting

        before = asking.metric(direct, "vllm:generation_tokens_total")
        body = {"question": QUESTION, "max_tokens": 512, "stream": True, "temperature": 1.5}
        with http.stream("POST", "/ask", json=body) as response:
            for name, _ in asking.events(response):
                if name == "token":
                    break
            assert running() == 1
        assert asking.eventually(lambda: running() == 0, 60)
        made = asking.metric(direct, "vllm:generation_tokens_total")
        time.sleep(0.5)
        # Of its 512 tokens, the most were never made.
        assert asking.metric(direct, "vllm:generation_tokens_total") == made < before + 512


def test_the_model_service_alone(models: Service) -> None:
    """/llm_ask, the chat template, 413, truncation, the card and vLLM's own metrics."""
    with asking.client(models.url) as direct:
        chat = {"messages": [{"role": "user", "content": "Name the capital of France."}], "max_tokens": 16}
        lines = direct.post("/llm_ask", json={"prompts": [{"request_id": "q", **chat}]}).text.splitlines()
        text = "".join(delta.get("text", "") for line in lines for delta in json.loads(line)["deltas"])
        assert "Paris" in text

        long = direct.post("/generate", json={"prompts": [{"request_id": "q", "prompt": "word " * 6000}]})
        assert long.status_code == 413
        assert "by at least" in long.json()["detail"]

        encoded = direct.post("/encode", json={"texts": ["a word", "word " * 400]}).json()
        assert encoded["truncated"] == [1]
        assert len(encoded["vectors"][0]) == encoded["dimension"] == 384

        card = direct.get("/models").json()
        assert (card["encoder"], card["generator"]) == ("all-MiniLM-L6-v2", "SmolLM2-135M-Instruct")
        assert (card["encoder_window"], card["context_window"]) == (256, 4096)
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            scraped = direct.get("/metrics", headers={"accept": accept}).text
            assert "\nvllm:kv_cache_usage_perc{" in scraped
            assert "\nvllm:generation_tokens_total{" in scraped
        assert direct.get("/docs").status_code == 200


def test_vllms_span_is_inside_the_prompts(models: Service, trace_backend: OtlpServer) -> None:
    """Two prompts of one batch, each in the trace of its own caller; all that vLLM tells is told as this service."""
    callers = ("1" * 32, "2" * 32)
    prompts = [
        {"request_id": trace, "prompt": "The sea is", "max_tokens": 4, "traceparent": f"00-{trace}-{'a' * 16}-01"}
        for trace in callers
    ]
    with asking.client(models.url) as direct:
        assert direct.post("/generate", json={"prompts": prompts}).status_code == 200

    def of(trace: str, name: str) -> list[Received]:
        return [span for span in trace_backend.named(name) if span.trace_id == trace]

    trace_backend.wait(lambda _: all(of(trace, "llm_request") for trace in callers))
    for trace in callers:
        (ours,), (vllms,) = of(trace, "text_completion SmolLM2-135M-Instruct"), of(trace, "llm_request")
        assert (ours.parent, vllms.parent) == ("a" * 16, ours.span_id)
        assert vllms.resource == ours.resource
        assert (ours.service, ours.resource["deployment.environment.name"]) == ("app_llm", "test")
        assert vllms.attributes["gen_ai.usage.completion_tokens"] == ours.attributes["gen_ai.usage.output_tokens"] == 4
        assert vllms.attributes["gen_ai.usage.prompt_tokens"] == ours.attributes["gen_ai.usage.input_tokens"]
        assert vllms.attributes["gen_ai.latency.time_in_queue"] >= 0
        assert vllms.attributes["gen_ai.latency.time_in_model_prefill"] > 0
        assert ours.started_ns <= vllms.started_ns < vllms.ended_ns
    # vLLM's boot is one trace through three processes.
    boot = ("Overall Loading", "EngineCoreProc init", "Load model")
    trace_backend.wait(lambda it: all(it.named(name) for name in boot))
    assert len({trace_backend.one(name).trace_id for name in boot}) == 1
    # Gateways of other tests send there too.
    assert {span.service for span in trace_backend.spans} <= {"app", "app_llm"}
    assert {span.resource["service.namespace"] for span in trace_backend.spans} == {"pharos"}
    assert "Overriding of current TracerProvider" not in models.log.read_text()


def test_it_is_not_ready_before_it_has_warmed_up(logs: Path) -> None:
    """It answers while the models load, and says so. The encoder alone is quick enough to try."""
    service = processes.model_service(logs / "warming.log", engine="simulated", simulated_first_token_seconds=3)
    service.start(processes.answers_healthy)
    try:
        early = httpx.get(service.url + "/readyz", timeout=60, trust_env=False)
        assert early.status_code == 503
        assert early.headers["retry-after"]
        refused = httpx.post(service.url + "/encode", json={"texts": ["a"]}, timeout=60, trust_env=False)
        assert refused.json()["code"] == "not_ready"
        assert asking.eventually(lambda: processes.answers_ready(service), 300), service.tail()
    finally:
        service.stop()


def test_a_model_that_is_not_there_is_said_in_one_line(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # where there is no network, a minute of retries
    service = processes.model_service(logs / "missing.log", engine="simulated", encoder_model="no/such-model")
    assert service.run(300) != 0
    assert "the models cannot be loaded" in service.tail()


async def test_langchain_gets_real_answers(gateway: Service) -> None:
    async with openai_clients.frameworks(gateway) as frameworks:
        grounded = frameworks.langchain_chat("topic:science", max_tokens=48)
        whole = await grounded.ainvoke(QUESTION)
        assert "19 January" in str(whole.content)
        chunks = [chunk async for chunk in grounded.astream(QUESTION)]
        assert len(chunks) > 3
        assert "".join(str(chunk.content) for chunk in chunks) == whole.content
        alone = frameworks.langchain_chat("SmolLM2-135M-Instruct", max_tokens=16)
        assert "Paris" in str((await alone.ainvoke("Name the capital of France.")).content)


def test_openais_client_gets_sources_stops_and_usage(gateway: Service) -> None:
    with openai_clients.client(gateway) as client:
        create = client.chat.completions.create
        question: list[Any] = [{"role": "user", "content": QUESTION}]
        answer = create(model="topic:science", messages=question, max_tokens=48).model_dump()
        assert "comet" in answer["sources"][0]["title"]
        assert "19 January" in answer["choices"][0]["message"]["content"]

        capital: list[Any] = [{"role": "user", "content": "Name the capital of France."}]
        alone: dict[str, Any] = {"model": "SmolLM2-135M-Instruct", "messages": capital}
        stopped = create(**alone, max_tokens=32, stop=["Paris"])
        assert stopped.choices[0].finish_reason == "stop"
        assert "Paris" not in (stopped.choices[0].message.content or "")
        assert stopped.usage is not None
        assert stopped.usage.prompt_tokens > 5
        assert create(**alone, max_tokens=2).choices[0].finish_reason == "length"

        def sampled(seed: int) -> str | None:
            return create(**alone, max_tokens=16, temperature=1.5, seed=seed).choices[0].message.content

        assert sampled(1) == sampled(1) != sampled(2)
        with pytest.raises(openai.BadRequestError) as long:
            create(model="SmolLM2-135M-Instruct", messages=[{"role": "user", "content": "word " * 6000}])
        assert long.value.code == "context_length_exceeded"


async def test_embeddings_are_the_encoders_own(gateway: Service, models: Service) -> None:
    texts = ["Oil fell to 41 dollars.", "When will the comet be nearest to us?", "word " * 400]
    async with httpx.AsyncClient(timeout=60, trust_env=False) as direct:
        own = (await direct.post(models.url + "/encode", json={"texts": texts})).json()
    async with openai_clients.async_client(gateway) as client:
        answer = await client.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
    async with openai_clients.frameworks(gateway) as frameworks:
        langchain = await frameworks.langchain_embeddings("all-MiniLM-L6-v2").aembed_documents(texts)
        llama_index = await frameworks.llama_index_embeddings("all-MiniLM-L6-v2").aget_text_embedding_batch(texts)
    for vectors in ([item.embedding for item in answer.data], langchain, llama_index):
        # Not to the last bit: another batch is another order of additions.
        np.testing.assert_allclose(vectors, own["vectors"], atol=1e-6)
    assert answer.usage.prompt_tokens == sum(own["tokens"])
    assert answer.model_dump()["truncated"] == own["truncated"] == [2]
