"""The floor of encoding: `SentenceTransformer.encode` and nothing else, in a process of its own.

`python -m benchmarks.raw_encoder MODEL DEVICE` reads lines of JSON `{"texts": [...], "batch": N}` and answers each with
the seconds of every call and the first vector.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from benchmarks.services import ENCODER


class Encoded(msgspec.Struct, frozen=True):
    """`calls` are the seconds of each call."""

    calls: list[float]
    vector: list[float]


class RawEncoder:
    """The process, seen from here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def encode(self, texts: Sequence[str], batch: int) -> Encoded:
        """One call for every `batch` texts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"texts": list(texts), "batch": batch}).encode() + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Encoded)


@contextmanager
def raw_encoder(device: str = "cpu") -> Iterator[RawEncoder]:
    """Started, loaded and warm."""
    command = [sys.executable, "-m", "benchmarks.raw_encoder", ENCODER, device]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    ) as process:
        encoder = RawEncoder(process)
        encoder.encode(["A first text."] * 64, 64)
        try:
            yield encoder
        finally:
            process.terminate()


def main() -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    name, device = sys.argv[1:]
    # 32 is SentenceTransformer's own default and, being sorted by length, faster on a CPU than all 64 in one pass.
    texts_a_pass = 32 if device == "cpu" else 256
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    disable_progress_bar()
    model = SentenceTransformer(name, device=device)
    for line in sys.stdin:
        asked = json.loads(line)
        texts, batch = asked["texts"], asked["batch"]
        calls: list[float] = []
        vector: list[float] = []
        for start in range(0, len(texts), batch):
            before = time.perf_counter()
            vectors = model.encode(
                texts[start : start + batch],
                batch_size=texts_a_pass,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            calls.append(time.perf_counter() - before)
            vector = vector or vectors[0].tolist()
        sys.stdout.buffer.write(msgspec.json.encode(Encoded(calls, vector)) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
