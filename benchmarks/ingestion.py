"""How much of the encoder's own speed does ingestion keep? Against running services (`make run`).

    python -m benchmarks.ingestion --dataset FILE [--limit ROWS]

Floor and job run in turns on the same chunks: the floor is `SentenceTransformer.encode` alone, in this process, on the
texts that the job encodes, sorted by length as it always sorts them. The job is `python -m setup_milvus --recreate` as
a user runs it, reading, chunking, HTTP and Milvus included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from setup_milvus.chunking import chunks_of
from setup_milvus.datasets import Columns, Dataset, Tally
from setup_milvus.model_service import ModelService
from setup_milvus.settings import Settings

COLLECTION = "bench_ingestion"


async def texts_of(dataset: Dataset, limit: int | None, settings: Settings) -> tuple[list[str], int]:
    """What the job will encode, and of how many documents."""
    service = ModelService(settings.model_url)
    tokenizer = await service.encoder_tokenizer()
    await service.close()
    documents = list(dataset.documents(Tally(), limit))
    texts = [
        chunk.encoded
        for document in documents
        for chunk in chunks_of(document, tokenizer, settings.chunk_tokens, settings.chunk_overlap_tokens)
    ]
    return texts, len(documents)


def floor_seconds(texts: list[str], model: str) -> float:
    """SentenceTransformer.encode alone."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    encoder = SentenceTransformer(model, device="cpu")
    encoder.encode(texts[:64])
    started = time.monotonic()
    encoder.encode(texts, batch_size=32, normalize_embeddings=True)
    return time.monotonic() - started


def job_seconds(dataset: Path, limit: int | None) -> tuple[float, str]:
    """The whole job as a process, and its report."""
    command = [sys.executable, "-m", "setup_milvus", "--dataset", str(dataset), "--recreate"]
    if limit:
        command += ["--limit", str(limit)]
    started = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "PHAROS_COLLECTION": COLLECTION}, capture_output=True, text=True, check=True
    )
    return time.monotonic() - started, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingestion against the encoder alone.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--encoder-model", default="volumes/models/all-MiniLM-L6-v2")
    options = parser.parse_args()
    dataset = Dataset.open(options.dataset, Columns())
    texts, documents = asyncio.run(texts_of(dataset, options.limit, Settings()))
    floor = floor_seconds(texts, options.encoder_model)
    job, report = job_seconds(options.dataset, options.limit)
    memory = re.search(r"peak memory (\d+) MiB", report)
    print(f"{documents:,} documents, {len(texts):,} passages")
    print(f"floor  {floor:7.1f} s  {documents / floor:7.1f} documents/s  {len(texts) / floor:7.1f} passages/s")
    print(f"job    {job:7.1f} s  {documents / job:7.1f} documents/s  {len(texts) / job:7.1f} passages/s")
    print(f"ratio  {floor / job:.2f} of the floor; peak memory of the job {memory[1] if memory else '?'} MiB")


if __name__ == "__main__":
    main()
