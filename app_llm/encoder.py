"""A SentenceTransformer as the `Encoder` port, off the event loop, with the calls of several gateways merged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from app.batching import Batcher, BatcherClosed, BatchLimits, QueueFull
from app_llm.errors import Busy, NoTokenizer
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
        from tokenizers import Tokenizer

        self._model = model
        self._batch_texts = batch_texts
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self.dimension = int(model.get_embedding_dimension())
        self.window = int(model.max_seq_length)
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise NoTokenizer("The encoder's tokenizer has no fast (tokenizer.json) form.")
        # A copy that does not truncate, to see by how much a text is too long.
        self._tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

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

    async def encode(self, texts: Sequence[str]) -> Encoding:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))

    def _encode(self, texts: list[str]) -> Encoding:
        if not texts:
            return Encoding(np.zeros((0, self.dimension), dtype=np.float32), ())
        lengths = tuple(len(encoded.ids) for encoded in self._tokenizer.encode_batch_fast(texts))
        # SentenceTransformer sorts by length itself, so that each forward pass pads little.
        vectors = self._model.encode(
            texts, batch_size=self._batch_texts, normalize_embeddings=True, show_progress_bar=False
        )
        truncated = tuple(i for i, length in enumerate(lengths) if length > self.window)
        return Encoding(np.asarray(vectors, dtype=np.float32), lengths, truncated)

    def tokenizer_json(self) -> str:
        return str(self._tokenizer.to_str())


class MergingEncoder:
    """An `Encoder` that merges small calls into one batch and cuts big ones into slices.

    A call of more than `slice_texts` texts is sorted by length and goes slice by slice, the next one only when the last
    is back. So a question waits for a slice of each ingestion job that is running, not for its hundreds of passages.
    """

    def __init__(self, encoder: LocalEncoder, *, slice_texts: int, merge_texts: int, queue_calls: int) -> None:
        self._encoder = encoder
        self._slice_texts = slice_texts
        self.batcher: Batcher[Sequence[str], Encoding] = Batcher(
            self._encode,
            BatchLimits(batch_items=queue_calls, queue_items=queue_calls, batch_cost=merge_texts),
            cost=len,
        )

    async def encode(self, texts: Sequence[str]) -> Encoding:
        """As the port says. Raises Busy."""
        if len(texts) <= self._slice_texts:
            return await self._submit(texts)
        # Texts of like length share a slice, so that a forward pass pads little.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self._encoder.dimension), dtype=np.float32)
        tokens = [0] * len(texts)
        truncated: list[int] = []
        for start in range(0, len(order), self._slice_texts):
            indices = order[start : start + self._slice_texts]
            part = await self._submit([texts[i] for i in indices])
            vectors[indices] = part.vectors
            for index, count in zip(indices, part.tokens, strict=True):
                tokens[index] = count
            truncated += [indices[i] for i in part.truncated]
        return Encoding(vectors, tuple(tokens), tuple(sorted(truncated)))

    async def _submit(self, texts: Sequence[str]) -> Encoding:
        try:
            return (await self.batcher.submit(texts)).value
        except QueueFull as exc:
            raise Busy("Too many /encode calls are waiting; try again in a moment.") from exc
        except BatcherClosed as exc:
            raise Busy("The model service is shutting down.") from exc

    async def _encode(self, calls: Sequence[Sequence[str]]) -> Sequence[Encoding]:
        merged = await self._encoder.encode([text for call in calls for text in call])
        parts: list[Encoding] = []
        start = 0
        for call in calls:
            end = start + len(call)
            truncated = tuple(i - start for i in merged.truncated if start <= i < end)
            parts.append(Encoding(merged.vectors[start:end], merged.tokens[start:end], truncated))
            start = end
        return parts
