"""Every implementation of the `Reranker` port behaves the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.batching import BatchLimits
from app.merging import MergingReranker
from app.replicated import ReplicatedReranker
from app.telemetry.traced import TracedReranker
from app_llm.graphs.models import GraphReranker
from app_llm.reranker import CrossEncoderReranker
from app_llm.simulated import OverlapReranker
from app_llm.traced import TracedReranker as TracedServiceReranker
from contracts.ports import Reranker
from contracts.types import Pair
from observability.tracing import Tracing
from tests.support import processes
from tests.support.backends import GRAPHS, needs

QUESTION = "who won the final in karachi?"
LONG = "word " * 600
IMPLEMENTATIONS = ["overlap", "merging", "traced", "cross-encoder", "http-overlap", "http-cross-encoder"]
ROUNDING = {"openvino": 3e-2, "openvino-int8": 3e-2, "onnx-int8": 6e-2}
"""How far a pair's score moves with the pairs that are scored beside it, at most; see tests/contract/test_encoder.py.
The tiny model's random weights are large, so that it moves far."""


@pytest.fixture(scope="module")
def overlap_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Service]:
    log = tmp_path_factory.mktemp("overlap") / "app_llm.log"
    service = processes.simulated_model_service(log, reranker="overlap").start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def cross_encoder_service(tiny_reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Service]:
    log = tmp_path_factory.mktemp("cross-encoder") / "app_llm.log"
    service = processes.simulated_model_service(log, reranker_model=tiny_reranker, reranker_merge_pairs=8).start()
    yield service
    service.stop()


@pytest.fixture
def rounding(request: pytest.FixtureRequest) -> float:
    return ROUNDING.get(request.node.callspec.params["reranker"], 1e-5)


@pytest.fixture(params=[*IMPLEMENTATIONS, *GRAPHS])
async def reranker(request: pytest.FixtureRequest) -> AsyncIterator[Reranker]:
    match request.param:
        case "overlap":
            yield OverlapReranker()
        case "merging" | "traced":
            limits = BatchLimits(64, 64, batch_cost=64)
            merging = MergingReranker(TracedReranker(OverlapReranker(), Tracing()), slice_pairs=4, limits=limits)
            async with merging.batcher:
                yield merging if request.param == "merging" else TracedServiceReranker(merging, Tracing(), "overlap")
        case "cross-encoder":
            yield await CrossEncoderReranker.load(str(request.getfixturevalue("tiny_reranker")), "cpu", 2, 8)
        case name if name in GRAPHS:
            needs(name)
            yield await GraphReranker.load(str(request.getfixturevalue("tiny_reranker")), name, 2, 8)
        case name:
            service = request.getfixturevalue("overlap_service" if name == "http-overlap" else "cross_encoder_service")
            async with processes.replicas(service.url) as replicas:
                yield ReplicatedReranker(replicas)


async def test_one_float32_score_from_0_to_1_per_pair(reranker: Reranker) -> None:
    pairs = [Pair(QUESTION, "The hosts won in Karachi."), Pair(QUESTION, ""), Pair("", "Oil fell."), Pair("", "")]
    answer = await reranker.rerank(pairs)
    assert answer.scores.shape == (4,)
    assert answer.scores.dtype == np.float32
    assert ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert len(answer.tokens) == 4
    assert answer.truncated == ()


async def test_no_pairs_give_no_scores(reranker: Reranker) -> None:
    answer = await reranker.rerank([])
    assert (answer.scores.shape, answer.tokens, answer.truncated) == ((0,), (), ())


async def test_pairs_of_several_questions_do_not_touch_each_other(reranker: Reranker, rounding: float) -> None:
    pairs = [
        Pair(QUESTION, "the hosts won"),
        Pair("the price of oil", "the price of oil fell again"),
        Pair(QUESTION, "karachi, where the final was, and so on " * 2),
    ]
    together = (await reranker.rerank(pairs)).scores
    apart = np.concatenate([(await reranker.rerank([pair])).scores for pair in pairs])
    np.testing.assert_allclose(together, apart, atol=rounding)
    assert len(set(together.round(4).tolist())) == 3


async def test_a_big_call_comes_back_in_order(reranker: Reranker, rounding: float) -> None:
    pairs = [Pair(QUESTION, f"text {i} " + "won in " * (i * 7 % 11)) for i in range(40)] + [Pair(QUESTION, LONG)]
    together = await reranker.rerank(pairs)
    for i in (0, 13, 22, 39):
        alone = (await reranker.rerank([pairs[i]])).scores[0]
        np.testing.assert_allclose(together.scores[i], alone, atol=rounding)
    assert together.truncated == (40,)
    assert together.tokens[40] > together.tokens[0]


async def test_a_pair_longer_than_the_window_is_cut_at_the_end_of_its_text(reranker: Reranker, rounding: float) -> None:
    first, second = (Pair(QUESTION, f"{LONG}{end}") for end in ("karachi", "of oil"))
    answer = await reranker.rerank([Pair(QUESTION, "short"), first, second])
    assert answer.truncated == (1, 2)
    assert answer.tokens[1] >= 600
    np.testing.assert_allclose(answer.scores[1], answer.scores[2], atol=rounding)
