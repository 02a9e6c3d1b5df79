"""What is particular to each reranker: the sigmoid, models that are none, words, and the service's route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from app.serving import Gate
from app_llm.main import create_app
from app_llm.reranker import CrossEncoderReranker
from app_llm.settings import Settings
from app_llm.simulated import OverlapReranker
from contracts import wire
from contracts.types import Pair, Scores
from tests.support.asgi import ask
from tests.support.cross_encoders import WINDOW, tiny_cross_encoder

PAIRS = [["who won the cup", "she won the cup"], ["who won the cup", "oil fell"]]


@asynccontextmanager
async def service(**settings: object) -> AsyncIterator[FastAPI]:
    """The model service with simulated models, once it is ready."""
    quick = {"engine": "simulated", "encoder": "hash", "simulated_first_token_seconds": 0, "simulated_token_seconds": 0}
    app = create_app(Settings(**{**quick, **settings}), Gate())  # type: ignore[arg-type]
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(300):  # to import torch and load a model, on a machine with other things to do
            while (await ask(app, "GET", "/readyz")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield app


async def test_scores_are_the_logit_through_a_sigmoid_whatever_was_saved(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    folder = tiny_cross_encoder(tmp_path / "tiny")
    model = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    pairs = [Pair("who won?", "she won."), Pair("who won?", "oil fell.")]
    logits = model.predict([list(pair) for pair in pairs], show_progress_bar=False)
    assert np.ptp(logits) > 1e-3
    scores = (await CrossEncoderReranker(model, 8).rerank(pairs)).scores
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)


async def test_a_classifier_of_several_classes_is_no_reranker(tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path / "classifier", labels=3)
    with pytest.raises(ValueError, match="one score a pair; this model gives 3"):
        await CrossEncoderReranker.load(str(folder), "cpu", 1, 8)


async def test_the_window_is_the_models_and_counts_the_whole_pair(tmp_path: Path) -> None:
    reranker = await CrossEncoderReranker.load(str(tiny_cross_encoder(tmp_path / "tiny")), "cpu", 1, 8)
    assert reranker.window == WINDOW
    fits = Pair("a" * 9, "b" * (WINDOW - 9 - 3))  # [CLS] question [SEP] text [SEP]
    scores = await reranker.rerank([fits, Pair(fits.question, fits.text + "b")])
    assert scores.tokens == (WINDOW, WINDOW + 1)
    assert scores.truncated == (1,)


async def test_overlap_is_the_share_of_the_questions_words() -> None:
    texts = ["She won the CUP.", "the cup", "oil", "cup cup cup"]
    scores = await OverlapReranker().rerank([Pair("won the cup the", text) for text in texts])
    np.testing.assert_allclose(scores.scores, [1, 2 / 3, 0, 1 / 3], atol=1e-6)
    assert scores.tokens == (8, 6, 5, 7)


async def test_the_route_in_both_encodings() -> None:
    async with service(reranker="overlap") as app:
        json = await ask(app, "POST", "/rerank", {"pairs": PAIRS})
        assert json.json == {"scores": [0.75, 0.0], "tokens": [8, 6], "truncated": []}
        packed = await ask(app, "POST", "/rerank", {"pairs": PAIRS}, accept=wire.MSGPACK)
        body = msgpack.unpackb(packed.body)
        assert (body["dtype"], body["tokens"], body["truncated"]) == ("<f4", [8, 6], [])
        np.testing.assert_array_equal(np.frombuffer(body["data"], "<f4"), np.array([0.75, 0], np.float32))
        assert (await ask(app, "GET", "/models")).json["reranker"] == "overlap"
        metrics = (await ask(app, "GET", "/metrics")).body.decode()
        assert "pharos_llm_reranked_pairs_total 5.0" in metrics  # with the one of the warm-up
        assert 'pharos_batch_items_count{kind="rerank"} 3.0' in metrics


async def test_without_a_model_there_is_no_reranker_and_it_says_so() -> None:
    async with service() as app:
        answer = await ask(app, "POST", "/rerank", {"pairs": PAIRS})
        assert (answer.status, answer.json["code"]) == (404, "no_reranker")
        assert "PHAROS_LLM_RERANKER_MODEL" in answer.json["detail"]
        assert (await ask(app, "GET", "/models")).json["reranker"] == ""


async def test_a_model_beside_the_simulated_ones_is_loaded_and_named(tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path / "tiny-reranker")
    async with service(reranker_model=str(folder)) as app:
        assert (await ask(app, "GET", "/models")).json["reranker"] == "tiny-reranker"
        answer = await ask(app, "POST", "/rerank", {"pairs": PAIRS})
        assert answer.status == 200
        assert all(0 < score < 1 for score in answer.json["scores"])


async def test_the_time_of_a_call_counts() -> None:
    async with service(reranker="overlap") as app:
        answer = await ask(app, "POST", "/rerank", {"pairs": PAIRS}, x_request_timeout="1e-9")
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("pairs", [[["only one"]], [["a", "b", "c"]], ["ab"], [["a", "\ud800"]], None])
def test_pairs_that_are_none_are_refused(pairs: object) -> None:
    with pytest.raises(ValidationError):
        wire.RerankRequest(pairs=pairs)  # type: ignore[arg-type]


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(ValidationError):
        wire.RerankRequest(pairs=[("a", "b")] * (wire.RERANK_PAIRS_MAX + 1))


def test_scores_survive_the_wire() -> None:
    sent = Scores(np.array([0.25, 1, 0], np.float32), (3, 4, 5), (2,))
    came = wire.scores_from_msgpack(wire.scores_to_msgpack(sent))
    np.testing.assert_array_equal(came.scores, sent.scores)
    assert (came.tokens, came.truncated) == (sent.tokens, sent.truncated)
    with pytest.raises(ValueError, match="'<f8'"):
        wire.scores_from_msgpack(wire.scores_to_msgpack(sent).replace(b"<f4", b"<f8"))
