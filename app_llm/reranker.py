"""A sentence-transformers CrossEncoder as the `Reranker` port, off the event loop: the backend torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from app_llm.tokens import WindowedTokenizer
from contracts.types import Pair, Scores


class CrossEncoderReranker:
    """Runs the model in one thread of its own. Scores are its one logit through a sigmoid, whatever activation the
    model was saved with, so that every model's are 0 to 1; the order is that of the logits."""

    def __init__(self, model: Any, batch_pairs: int) -> None:
        """Raises ValueError for a classifier of several classes, whose scores are no measure of relevance."""
        import torch

        if model.num_labels != 1:
            raise ValueError(f"The reranker must give one score a pair; this model gives {model.num_labels}.")
        self._model = model
        self._batch_pairs = batch_pairs
        self._sigmoid = torch.nn.Sigmoid()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reranker")
        self._tokenizer = WindowedTokenizer.of(model)
        self.window = self._tokenizer.window

    @classmethod
    async def load(cls, name: str, device: str, threads: int, batch_pairs: int) -> CrossEncoderReranker:
        """Load a local folder or a Hugging Face id. Raises what CrossEncoder raises, and ValueError."""

        def load() -> CrossEncoderReranker:
            import torch
            from sentence_transformers import CrossEncoder
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            torch.set_num_threads(threads)
            return cls(CrossEncoder(name, device=device), batch_pairs)

        return await asyncio.to_thread(load)

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:  # noqa: ARG002
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rerank, list(pairs))

    def _rerank(self, pairs: list[Pair]) -> Scores:
        if not pairs:
            return Scores(np.zeros(0, dtype=np.float32), ())
        lengths = self._tokenizer.lengths(pairs)
        # CrossEncoder sorts by length itself, and its tokenizer cuts the longer part of a pair first.
        scores = self._model.predict(
            [list(pair) for pair in pairs],
            batch_size=self._batch_pairs,
            activation_fn=self._sigmoid,
            show_progress_bar=False,
        )
        return Scores(np.asarray(scores, dtype=np.float32), lengths, self._tokenizer.truncated(lengths))
