"""A SentenceTransformer as the `Encoder` port, off the event loop: the backend torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from app_llm.tokens import WindowedTokenizer
from contracts.ports import Encoder
from contracts.types import Encoding


class LocalEncoder(Encoder, Protocol):
    """An encoder in this process."""

    dimension: int
    window: int

    def tokenizer_json(self) -> str:
        """Its tokenizer in Hugging Face's tokenizer.json format, without truncation or padding."""
        ...


class SentenceTransformerEncoder:
    """Runs the model in one thread of its own: torch spreads a batch over the cores itself."""

    def __init__(self, model: Any, batch_texts: int) -> None:
        self._model = model
        self._batch_texts = batch_texts
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self.dimension = int(model.get_embedding_dimension())
        self._tokenizer = WindowedTokenizer.of(model)
        self.window = self._tokenizer.window

    @classmethod
    async def load(cls, name: str, device: str, threads: int, batch_texts: int) -> SentenceTransformerEncoder:
        """Load a local folder or a Hugging Face id. Raises what SentenceTransformer raises."""

        def load() -> SentenceTransformerEncoder:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            torch.set_num_threads(threads)
            return cls(SentenceTransformer(name, device=device), batch_texts)

        return await asyncio.to_thread(load)

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))

    def _encode(self, texts: list[str]) -> Encoding:
        if not texts:
            return Encoding(np.zeros((0, self.dimension), dtype=np.float32), ())
        lengths = self._tokenizer.lengths(texts)
        # SentenceTransformer sorts by length itself, so that each forward pass pads little.
        vectors = self._model.encode(
            texts, batch_size=self._batch_texts, normalize_embeddings=True, show_progress_bar=False
        )
        return Encoding(np.asarray(vectors, dtype=np.float32), lengths, self._tokenizer.truncated(lengths))

    def tokenizer_json(self) -> str:
        return self._tokenizer.json()
