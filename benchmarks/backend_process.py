"""One backend's encoder and cross-encoder in a process of their own, without HTTP.

`python -m benchmarks.backend_process BACKEND ENCODER CROSS_ENCODER` reads lines of JSON, `{"texts": [...]}` or
`{"pairs": [[question, text], ...]}`, and answers each with its seconds, its CPU seconds and what came out.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from app_llm.encoder import LocalEncoder, SentenceTransformerEncoder
from app_llm.graphs.models import GraphEncoder, GraphReranker
from app_llm.graphs.types import Backend
from app_llm.reranker import CrossEncoderReranker
from app_llm.settings import Settings
from contracts.ports import Reranker
from contracts.types import Pair


class Computed(msgspec.Struct, frozen=True):
    """`values` are the vectors of texts, or the scores of pairs in one row."""

    seconds: float
    cpu_seconds: float
    values: list[list[float]]


class BackendProcess:
    """The process, seen from here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def encode(self, texts: Sequence[str]) -> Computed:
        return self._ask({"texts": list(texts)})

    def rerank(self, pairs: Sequence[Pair]) -> Computed:
        return self._ask({"pairs": list(pairs)})

    def _ask(self, what: dict[str, Any]) -> Computed:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Computed)


@contextmanager
def backend_process(backend: Backend, encoder: Path, cross_encoder: Path) -> Iterator[BackendProcess]:
    """Started, loaded (exported first, where that has not been done) and warm."""
    command = [sys.executable, "-m", "benchmarks.backend_process", backend, str(encoder), str(cross_encoder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    ) as process:
        found = BackendProcess(process)
        found.encode(["A first text."] * 16)
        found.rerank([Pair("A first question?", "A first text.")] * 16)
        try:
            yield found
        finally:
            process.terminate()


async def _load(backend: Backend, encoder: str, cross_encoder: str) -> tuple[LocalEncoder, Reranker]:
    settings = Settings()
    threads = len(os.sched_getaffinity(0))
    texts, pairs = settings.encoder_batch_texts, settings.reranker_batch_pairs
    if backend == "torch":
        return (
            await SentenceTransformerEncoder.load(encoder, "cpu", threads, texts),
            await CrossEncoderReranker.load(cross_encoder, "cpu", threads, pairs),
        )
    return (
        await GraphEncoder.load(encoder, backend, threads, texts),
        await GraphReranker.load(cross_encoder, backend, threads, pairs),
    )


async def main() -> None:
    backend, encoder_model, cross_encoder_model = sys.argv[1:]
    encoder, reranker = await _load(cast("Backend", backend), encoder_model, cross_encoder_model)
    for line in sys.stdin:
        asked = json.loads(line)
        before, cpu_before = time.perf_counter(), time.process_time()
        if "texts" in asked:
            values = (await encoder.encode(asked["texts"])).vectors.tolist()
        else:
            values = [(await reranker.rerank([Pair(*pair) for pair in asked["pairs"]])).scores.tolist()]
        computed = Computed(time.perf_counter() - before, time.process_time() - cpu_before, values)
        sys.stdout.buffer.write(msgspec.json.encode(computed) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
