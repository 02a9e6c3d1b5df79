"""On an NVIDIA GPU: encoding at batches of 1 to 1,024, and vLLM's tokens through the gateway against vLLM's server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app_llm.settings import Settings
from benchmarks.encoding import sentences_of
from benchmarks.load.types import Closed, Load, Outcome
from benchmarks.machine import gpu_name
from benchmarks.options import Options
from benchmarks.raw_encoder import raw_encoder
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.services import ENCODER, GENERATOR, answers_ok, gateway, model_service, running, serves_models
from benchmarks.trial import Trials, attempt
from benchmarks.vllm_server import NAME, vllm_server
from tests.support.processes import answers_ready

BATCHES = (1, 4, 16, 64, 256, 1024)
STREAMS = (1, 16, 64, 256)
MAX_TOKENS = 256
OF_RAW = Goal("ratio", "at least", 0.85)
OF_VLLM = Goal("ratio", "at least", 0.95)
ENGINE: dict[str, Any] = {"gpu_memory_fraction": 0.4, "encoder_batch_texts": 256, "encoder_merge_texts": 512}
"""Two vLLMs share the GPU, each with the same part of its memory."""


def run(options: Options) -> Measured:
    if not gpu_name():
        return Measured([Row("everything", "", None, "higher", note="no GPU in this run")])
    with (
        running(model_service(**ENGINE), answers_ready) as models,
        running(gateway(models.url), serves_models) as front,
    ):
        encoded = _encoding(front.url, options)
        settings = Settings(gpu_memory_fraction=0.4, model=GENERATOR)
        with running(vllm_server(settings), answers_ok("/health")) as vllm:
            pairs = {
                streams: (
                    Trials([attempt(_chats(front.url, Path(GENERATOR).name, streams), front, models)]),
                    Trials([attempt(_chats(vllm.url, NAME, streams), vllm)]),
                )
                for streams in (STREAMS[:1] if options.quick else STREAMS)
                if attempt(_chats(front.url, Path(GENERATOR).name, streams)).outcome.answered
                and attempt(_chats(vllm.url, NAME, streams)).outcome.answered
            }
    rows = [*encoded.rows]
    for streams, (ours, theirs) in pairs.items():
        cpu = {**ours.cpu_seconds, "vllm": theirs.cpu_seconds["vllm"]}
        what, doubts = f"{streams} chats at once", ours.doubts() + theirs.doubts("vLLM's server")
        us, them = ours.median(_rate), theirs.median(_rate)
        rows.append(Row(what, "tokens/s", us, "higher", "vLLM's own server", them, OF_VLLM, cpu, doubts))
    return Measured(rows, encoded.plots)


def _encoding(gateway_url: str, options: Options) -> Measured:
    sentences = sentences_of(options.dataset, 1024)
    sentences = (sentences * 1024)[:1024]
    rows: list[Row] = []
    bars: dict[str, dict[str, float]] = {"raw": {}, "Pharos": {}}
    with raw_encoder("cuda") as raw:
        for batch in BATCHES:
            calls = max(3, 32 // batch) if options.quick else max(20, 512 // batch)
            texts = (sentences * calls)[: batch * calls]
            raw.encode(texts, batch)
            alone = len(texts) / sum(raw.encode(texts, batch).calls)
            bodies = [
                json.dumps(
                    {
                        "model": Path(ENCODER).name,
                        "input": texts[start : start + batch],
                        "encoding_format": "base64",
                    }
                )
                for start in range(0, len(texts), batch)
            ]
            # Two callers, so that one batch travels while the other is encoded.
            load = Load(gateway_url + "/v1/embeddings", bodies, Closed(2, requests=len(bodies)))
            attempt(load)
            ours = Trials([attempt(load)])
            rate = ours.median(lambda outcome, batch=batch: outcome.per_second * batch)  # type: ignore[misc]
            what, goal = f"encoding, {batch} texts a call", OF_RAW if batch >= 64 else None
            rows.append(Row(what, "texts/s", rate, "higher", "raw", alone, goal, ours.cpu_seconds, ours.doubts()))
            bars["raw"][str(batch)] = alone
            bars["Pharos"][str(batch)] = rate
    series = [Series(name, rates) for name, rates in bars.items()]
    return Measured(rows, [Plot("gpu-encode", "Encoding on a GPU by texts a call", "texts/s", series)])


def _chats(url: str, model: str, streams: int) -> Load:
    bodies = [
        json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": f"Tell a long story about the number {i}."}],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        for i in range(streams * 4)
    ]
    return Load(url + "/v1/chat/completions", bodies, Closed(streams, requests=len(bodies)), stream=True)


def _rate(outcome: Outcome) -> float:
    return outcome.tokens_per_second
