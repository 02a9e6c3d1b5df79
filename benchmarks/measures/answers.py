"""Answers to questions over the sample, written by the real vLLM: POST /ask against vLLM's own server.

Both get the same prompts: the sources of each answer are made into messages again by the gateway's own `prompting`. So
the gateway does more for each (encode, search, prompt) and has to keep vLLM as busy all the same. Temperature 0; tokens
are counted as each side reports them, so that an answer that ends early counts for what it is. Prompts repeat, so both
find them in their prefix caches: the harder case for a gateway, since vLLM then has less to do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tokenizers import Tokenizer

from app.adapters.model_facts import TokenizerRuler
from app.prompting import grounded_prompt
from app_llm.settings import Settings
from benchmarks.load.types import Closed, Load, Outcome
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.services import GENERATOR, LOGS, answers_ok, gateway, model_service, running
from benchmarks.trial import Trial, Trials, attempt
from benchmarks.vllm_server import NAME, vllm_server
from contracts.types import Passage
from tests.support import processes
from tests.support.processes import Service, answers_ready, listens

SAMPLE = Path("setup_milvus/sample")
COLLECTION = "bench_answers"
AT_ONCE = (1, 4, 16)
TOP_K = 2
"""Two passages: on two cores vLLM takes seconds to read five."""
OF_VLLM = Goal("ratio", "at least", 0.95)
ENGINE: dict[str, Any] = {"dtype": "float32", "kv_cache_gib": 1, "max_sequences": 16}
_FOLDER = Path("volumes/bench/milvus")


@dataclass(frozen=True, slots=True)
class Stack:
    """Both servers loaded, one of them busy at a time."""

    models: Service
    gateway: Service
    vllm: Service


def run(options: Options) -> Measured:
    requests, max_tokens, rounds = ({1: 2, 4: 4, 16: 16}, 24, 1) if options.quick else ({1: 8, 4: 16, 16: 32}, 64, 3)
    questions = [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text().splitlines()]
    with _stack() as stack:
        ours_bodies, vllm_bodies, doubts = _same_prompts(stack, questions[: max(requests.values())], max_tokens)
        found: dict[int, tuple[Trials, Trials]] = {}
        for at_once in AT_ONCE:
            few = requests[at_once]
            ours_load = _load(stack.gateway.url + "/ask", ours_bodies[:few], at_once)
            vllm_load = _load(stack.vllm.url + "/v1/chat/completions", vllm_bodies[:few], at_once)
            attempt(ours_load)
            attempt(vllm_load)
            ours: list[Trial] = []
            theirs: list[Trial] = []
            for _ in range(rounds):
                ours.append(attempt(ours_load, stack.gateway, stack.models))
                theirs.append(attempt(vllm_load, stack.vllm))
            found[at_once] = Trials(ours), Trials(theirs)
    rows = [_row(at_once, *pair, doubts) for at_once, pair in found.items()]
    labels = {at_once: f"{at_once} at once" for at_once in AT_ONCE}
    bars = [
        Series("Pharos /ask", {labels[n]: pair[0].median(_rate) for n, pair in found.items()}),
        Series("vLLM's own server", {labels[n]: pair[1].median(_rate) for n, pair in found.items()}),
    ]
    return Measured(rows, [Plot("answers", "Answers by vLLM on a CPU, the same prompts", "tokens/s", bars)])


@contextmanager
def _stack() -> Iterator[Stack]:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    settings = Settings(**ENGINE, model=GENERATOR)
    try:
        with (
            running(processes.milvus_lite(_FOLDER, LOGS / "milvus.log"), listens) as milvus,
            running(model_service(**ENGINE), answers_ready) as models,
            running(vllm_server(settings), answers_ok("/health")) as vllm,
        ):
            job = processes.ingestion(
                LOGS / "ingestion.log",
                models.url,
                milvus.url,
                "--dataset",
                str(SAMPLE / "articles.csv"),
                collection=COLLECTION,
            )
            if job.run() != 0:
                raise RuntimeError(f"the sample was not ingested:\n{job.tail()}")
            with running(gateway(models.url, milvus.url, collection=COLLECTION), answers_ready) as front:
                yield Stack(models, front, vllm)
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def _same_prompts(
    stack: Stack, questions: Sequence[dict[str, str]], max_tokens: int
) -> tuple[list[str], list[str], list[str]]:
    """Bodies for /ask, bodies for vLLM with the very messages that /ask makes of them, and doubts that they are."""
    with httpx.Client(timeout=120, trust_env=False) as http:
        tokenizer = Tokenizer.from_str(http.get(stack.models.url + "/models/generator/tokenizer").text)
        ours: list[str] = []
        vllm: list[str] = []
        doubts: list[str] = []
        for question in (q["question"] for q in questions):
            ask = {"question": question, "top_k": TOP_K, "max_tokens": max_tokens, "temperature": 0, "stream": True}
            answer = http.post(stack.gateway.url + "/ask", json={**ask, "stream": False, "max_tokens": 1}).json()
            passages = [msgspec.convert(source, Passage) for source in answer["sources"]]
            if not passages:
                continue  # answered without vLLM
            # A budget no passage reaches: what had to be cut was cut when the answer was made.
            grounded = grounded_prompt(question, passages, 1_000_000, TokenizerRuler(tokenizer))
            chat = {
                "model": NAME,
                "messages": [{"role": m.role, "content": m.content} for m in grounded.messages],
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            first = {**chat, "stream": False, "max_tokens": 1}
            del first["stream_options"]
            usage = http.post(stack.vllm.url + "/v1/chat/completions", json=first).json()["usage"]
            if usage["prompt_tokens"] != answer["usage"]["prompt_tokens"]:
                doubts = [
                    f"vLLM's server read {usage['prompt_tokens']} tokens where ours read "
                    f"{answer['usage']['prompt_tokens']}: not the same prompt"
                ]
            ours.append(json.dumps(ask))
            vllm.append(json.dumps(chat))
    return ours, vllm, doubts


def _load(url: str, bodies: list[str], at_once: int) -> Load:
    return Load(url, bodies, Closed(at_once, requests=len(bodies)), stream=True, timeout_seconds=300)


def _rate(outcome: Outcome) -> float:
    return outcome.tokens_per_second


def _row(at_once: int, ours: Trials, theirs: Trials, doubts: list[str]) -> Row:
    return Row(
        f"{at_once} at once",
        "tokens/s",
        ours.median(_rate),
        "higher",
        "vLLM's own server",
        theirs.median(_rate),
        OF_VLLM,
        {**ours.cpu_seconds, "vllm": theirs.cpu_seconds["vllm"]},
        doubts + ours.doubts() + theirs.doubts("vLLM's server"),
        f"At {at_once} at once: {ours.tokens:,} tokens by ours, {theirs.tokens:,} by vLLM's server; first token after "
        f"{ours.median(lambda o: o.first_token.p50):.2f} s and {theirs.median(lambda o: o.first_token.p50):.2f} s.",
    )
