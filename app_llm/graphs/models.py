"""An exported model as the `Encoder` and `Reranker` ports, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from app_llm.graphs.exported import open_model
from app_llm.graphs.running import GraphModel, sigmoid, unit
from app_llm.graphs.types import Backend
from contracts.types import Encoding, Pair, Scores


class GraphEncoder:
    """Runs the graph in one thread of its own; the library spreads a batch over the cores itself."""

    def __init__(self, model: GraphModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self.dimension = model.description.dimension
        self.window = model.description.window

    @classmethod
    async def load(cls, name: str, backend: Backend, threads: int, batch_texts: int) -> GraphEncoder:
        """From a local folder, exported first where that has not been done. Raises GraphError."""
        return cls(await asyncio.to_thread(open_model, "encoder", name, backend, threads, batch_texts))

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:  # noqa: ARG002
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))

    def _encode(self, texts: list[str]) -> Encoding:
        output = self._model(texts)
        return Encoding(unit(output.rows), output.lengths, output.truncated)

    def tokenizer_json(self) -> str:
        return self._model.tokenizer.json()


class GraphReranker:
    """Runs the graph in one thread of its own. Scores are its logit through a sigmoid, as CrossEncoderReranker's."""

    def __init__(self, model: GraphModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reranker")
        self.window = model.description.window

    @classmethod
    async def load(cls, name: str, backend: Backend, threads: int, batch_pairs: int) -> GraphReranker:
        """From a local folder, exported first where that has not been done. Raises GraphError."""
        return cls(await asyncio.to_thread(open_model, "cross-encoder", name, backend, threads, batch_pairs))

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:  # noqa: ARG002
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rerank, list(pairs))

    def _rerank(self, pairs: list[Pair]) -> Scores:
        output = self._model(pairs)
        return Scores(sigmoid(output.rows[:, 0]), output.lengths, output.truncated)
