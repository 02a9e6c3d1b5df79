"""What a calibration judges a question by, when it is made and when it is used."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.adapters.memory import MemoryStore
from app.arranging import AnswerabilityCheck, ArrangingRetriever
from app.batching import BatchLimits
from app.merging import MergingEncoder, MergingReranker
from app.ranking.answerability import FEATURES, Calibration, features
from app.ranking.options import RankingOptions
from app.reranking import Reranking, RerankingRetriever
from app.retrieval import Question, Retriever
from app.routes import search
from app.settings import Settings
from app.terms import UNLIMITED
from app.topics import TopicDirectory
from app_llm.simulated import OverlapReranker
from contracts.types import Encoding, Passage
from training.answerability import Asked, gathered

ASKED = "Who won the cup final?"
COSINES = (0.30, 0.24, 0.20, 0.10, 0.05)
TEXTS = (
    "Oil fell in Oslo.",
    "The weather is fine.",
    "Snow.",
    "It is late.",
    "The cup final is won by those who won it.",
)
"""The reranker puts the last first, which is then among those whose words count."""
LIMITS = BatchLimits(8, 8)


class OneVector:
    """An Encoder to which all texts are the same."""

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        return Encoding(np.array([[1, 0]] * len(texts), dtype=np.float32), (1,) * len(texts))


class Recording(AnswerabilityCheck):
    """Refuses nothing, and remembers the features of each question."""

    def __init__(self) -> None:
        ones = (1.0,) * len(FEATURES)
        super().__init__(Calibration("one", FEATURES, ones, ones, ones, 0.0, 0.0, ""), self._served)
        self.judged: list[dict[str, float]] = []

    async def _served(self) -> str:
        return "one"

    async def refuses(self, question: str, passages: Sequence[Passage], at_least: float | None) -> bool:
        self.judged.append(features(question, passages))
        return await super().refuses(question, passages, at_least)


async def overlap() -> str:
    return "overlap"


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_a_question_is_judged_by_what_the_calibration_was_made_from(mode: str) -> None:
    """Whatever is relevant there, reranked and arranged: of five passages the cut leaves one."""
    store = MemoryStore()
    store.add(
        [Passage(str(i), f"d{i}", "", "sport", f"201{i}-01-01", text, 0) for i, text in enumerate(TEXTS)],
        np.array([[cosine, np.sqrt(1 - cosine**2)] for cosine in COSINES], dtype=np.float32),
    )
    encoder = MergingEncoder(OneVector(), slice_texts=8, limits=LIMITS)
    reranker = MergingReranker(OverlapReranker(), slice_pairs=64, limits=BatchLimits(64, 64, batch_cost=64))
    inner = Retriever(encoder, store, search_limits=LIMITS, min_score=0.25, min_coverage=2.0)
    reranking = RerankingRetriever(inner, Reranking(reranker, overlap))
    options = RankingOptions(min_score=0.25, half_life_days=30, duplicates_above=0.9)
    check = Recording()
    retriever = ArrangingRetriever(reranking, store, options, most=100, check=check)
    routes = FastAPI()
    routes.include_router(search.router(retriever, TopicDirectory(store, 60), Settings(_env_file=None)))

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        await routes({**scope, "state": {"terms": UNLIMITED}}, receive, send)

    async with encoder.batcher, reranker.batcher, inner:
        found = await retriever.retrieve(Question(ASKED, (), 5, mode=mode))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway") as client:
            (fitted,) = await gathered(client, [Asked(ASKED, "group", answerable=True)], mode)
    assert [hit.passage.id for hit in found.hits] == ["0"]
    fitted.pop("bm25")
    assert check.judged == [pytest.approx(fitted, abs=1e-4)], "cosines are shown with four digits"
    assert fitted["best_cosine"] == 0.3
    assert fitted["cosine_gap"] == pytest.approx(0.06)
