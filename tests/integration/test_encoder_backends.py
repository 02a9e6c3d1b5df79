"""The model service with each backend as its users have it: started, asked over HTTP, refused where it cannot serve."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from app_llm.encoder import SentenceTransformerEncoder
from app_llm.graphs.types import Backend
from app_llm.reranker import CrossEncoderReranker
from contracts.types import Pair
from tests.support import processes
from tests.support.backends import GRAPHS, needs
from tests.support.processes import Service

MINILM = Path("volumes/models/all-MiniLM-L6-v2")
SAMPLE = Path("setup_milvus/sample/articles.csv")
FLOORS: dict[Backend, float] = {"onnx": 0.9999, "openvino": 0.9999, "onnx-int8": 0.96, "openvino-int8": 0.99}
"""Of the cosines with torch's vectors; the lowest measured on the texts below were 1.0000, 0.9999, 0.98 and 0.998."""
PAIRS = [Pair("who won?", "the hosts won"), Pair("who won?", "oil fell, and fell, and fell again"), Pair("", "")]


def texts() -> list[str]:
    """Passages and questions of many lengths."""
    with SAMPLE.open(newline="") as file:
        rows = [max(row.values(), key=len) for row in csv.DictReader(file)][:24]
    return [" ".join(row.split()[: 4 + 9 * i]) for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def in_torch(tiny_reranker: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The vectors of `texts` and the scores of `PAIRS`."""

    async def computed() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        encoder = await SentenceTransformerEncoder.load(str(MINILM), "cpu", 2, 16)
        reranker = await CrossEncoderReranker.load(str(tiny_reranker), "cpu", 2, 16)
        return (await encoder.encode(texts())).vectors, (await reranker.rerank(PAIRS)).scores

    return asyncio.run(computed())


@pytest.fixture(scope="module", params=GRAPHS)
def service(request: pytest.FixtureRequest, tiny_reranker: Path, logs: Path) -> Iterator[tuple[Backend, Service]]:
    needs(request.param)
    service = processes.model_service(
        logs / f"app_llm-{request.param}.log",
        engine="simulated",
        encoder_backend=request.param,
        reranker_model=tiny_reranker,
        reranker_backend=request.param,
    )
    yield request.param, service.start(seconds=300)
    service.stop()


def test_it_serves_the_vectors_and_scores_of_torch(
    service: tuple[Backend, Service], in_torch: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    backend, running = service
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as http:
        card = http.get("/models").json()
        encoded = http.post("/encode", json={"texts": texts()}).json()
        reranked = http.post("/rerank", json={"pairs": PAIRS}).json()
    assert (card["encoder"], card["encoder_backend"]) == ("all-MiniLM-L6-v2", backend)
    vectors, scores = in_torch
    cosines = (np.array(encoded["vectors"]) * vectors).sum(axis=1)
    assert cosines.min() >= FLOORS[backend], cosines
    np.testing.assert_allclose(reranked["scores"], scores, atol=0.1 if backend.endswith("int8") else 0.03)
    assert reranked["scores"] != reranked["scores"][::-1]


def test_a_model_it_cannot_export_ends_it_with_what_to_do(tmp_path: Path) -> None:
    needs("onnx")
    service = processes.model_service(
        tmp_path / "app_llm.log", engine="simulated", encoder_model="owner/model", encoder_backend="onnx"
    )
    assert service.run(120) == 1 or "cannot be loaded" in service.tail()
    assert "hf download owner/model --local-dir volumes/models/own/model" in service.tail()
