"""Every implementation of the `Encoder` port behaves the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app.batching import BatchLimits
from app.merging import MergingEncoder
from app.replicated import ReplicatedEncoder
from app.telemetry.traced import TracedEncoder
from app_llm.encoder import SentenceTransformerEncoder
from app_llm.graphs.models import GraphEncoder
from app_llm.simulated import HashEncoder
from app_llm.traced import TracedEncoder as TracedServiceEncoder
from contracts.ports import Encoder
from observability.tracing import Tracing
from tests.support import processes
from tests.support.backends import GRAPHS, needs

MINILM = Path("volumes/models/all-MiniLM-L6-v2")

IMPLEMENTATIONS = ["hash", "merging", "traced", "sentence-transformers", "http-hash", "http-sentence-transformers"]
ROUNDING = {"openvino": 3e-3, "openvino-int8": 2e-2, "onnx-int8": 6e-2}
"""How far a number of a text's vector moves with the texts that are encoded beside it, at most: bfloat16 and int8 round
by what else is in the batch."""


@pytest.fixture
def rounding(request: pytest.FixtureRequest) -> float:
    return ROUNDING.get(request.node.callspec.params["encoder"], 1e-5)


@pytest.fixture(params=[*IMPLEMENTATIONS, *GRAPHS])
async def encoder(request: pytest.FixtureRequest) -> AsyncIterator[Encoder]:
    match request.param:
        case "hash":
            yield HashEncoder(384)
        case "merging" | "traced":
            limits = BatchLimits(64, 64, batch_cost=64)
            merging = MergingEncoder(TracedEncoder(HashEncoder(384), Tracing()), slice_texts=4, limits=limits)
            async with merging.batcher:
                yield merging if request.param == "merging" else TracedServiceEncoder(merging, Tracing(), "hash")
        case "sentence-transformers":
            yield await SentenceTransformerEncoder.load(str(MINILM), "cpu", 2, 32)
        case name if name in GRAPHS:
            needs(name)
            yield await GraphEncoder.load(str(MINILM), name, 2, 32)
        case name:
            service = request.getfixturevalue("simulated" if name == "http-hash" else "models")
            async with processes.replicas(service.url) as replicas:
                yield ReplicatedEncoder(replicas)


async def test_one_normalised_float32_row_per_text(encoder: Encoder) -> None:
    encoding = await encoder.encode(["Oil prices fell.", "A final in Karachi", ""])
    assert encoding.vectors.shape == (3, 384)
    assert encoding.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoding.vectors, axis=1), 1, atol=1e-5)
    assert len(encoding.tokens) == 3
    assert encoding.truncated == ()


async def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert (await encoder.encode([])).vectors.shape == (0, 384)


async def test_order_is_kept_whatever_the_lengths(encoder: Encoder, rounding: float) -> None:
    texts = ["short", "a text that is quite a bit longer than the others, " * 4, "of middle length, perhaps"]
    together = (await encoder.encode(texts)).vectors
    apart = np.vstack([(await encoder.encode([text])).vectors for text in texts])
    np.testing.assert_allclose(together, apart, atol=rounding)


async def test_a_big_call_comes_back_in_order(encoder: Encoder, rounding: float) -> None:
    texts = [f"text {i} " + "more words " * (i * 7 % 11) for i in range(70)] + ["word " * 600]
    together = await encoder.encode(texts)
    for i in (0, 33, 69):
        alone = (await encoder.encode([texts[i]])).vectors[0]
        np.testing.assert_allclose(together.vectors[i], alone, atol=rounding)
    assert together.truncated == (70,)
    assert together.tokens[70] > together.tokens[0]


async def test_near_texts_are_nearer_than_far_ones(encoder: Encoder) -> None:
    vectors = (await encoder.encode(["the price of oil fell", "oil price", "a football match"])).vectors
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


async def test_a_text_longer_than_the_window_is_reported(encoder: Encoder) -> None:
    encoding = await encoder.encode(["short", "word " * 600])
    assert encoding.truncated == (1,)
    assert encoding.tokens[1] >= 600
