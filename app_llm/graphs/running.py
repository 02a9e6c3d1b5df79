"""Texts through a graph: tokens in batches of like lengths, and the rows in the texts' order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app_llm.graphs.types import Description, Graph
from app_llm.tokens import WindowedTokenizer
from contracts.types import Pair


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0 to 1, without overflow."""
    half: NDArray[np.float32] = np.tanh(0.5 * logits) / 2
    return half + np.float32(0.5)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1 to float32's last digits, which a model's own normalisation in bfloat16 is not. Zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return normalised


@dataclass(frozen=True, slots=True)
class Output:
    """A row for each text, how many tokens each has, and which were cut."""

    rows: NDArray[np.float32]
    lengths: tuple[int, ...]
    truncated: tuple[int, ...]


class GraphModel:
    """One thread at a time. `batch` is how many texts go into one forward pass at most."""

    def __init__(self, graph: Graph, tokenizer: WindowedTokenizer, description: Description, batch: int) -> None:
        self.tokenizer = tokenizer
        self.description = description
        self._graph = graph
        self._batch = batch

    def __call__(self, texts: Sequence[str] | Sequence[Pair]) -> Output:
        rows = np.zeros((len(texts), self.description.dimension), dtype=np.float32)
        whole = self.tokenizer.whole(texts)
        lengths = tuple(len(one.ids) for one in whole)
        tokens = self.tokenizer.cut(texts, whole)
        # The longest first, so that each pass pads little and memory is taken once.
        order = sorted(range(len(texts)), key=lambda i: -len(tokens[i].ids))
        for start in range(0, len(order), self._batch):
            batch = order[start : start + self._batch]
            rows[batch] = self._graph.run(self._inputs([tokens[i] for i in batch]))
        return Output(rows, lengths, self.tokenizer.truncated(lengths))

    def _inputs(self, tokens: list[Any]) -> dict[str, NDArray[np.int64]]:
        length = max(1, *(len(one.ids) for one in tokens))
        shape = (len(tokens), length)
        given = {
            "input_ids": np.full(shape, self.description.padding_token, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.full(shape, self.description.padding_type, dtype=np.int64),
        }
        for i, one in enumerate(tokens):
            count = len(one.ids)
            given["input_ids"][i, :count] = one.ids
            given["attention_mask"][i, :count] = 1
            given["token_type_ids"][i, :count] = one.type_ids
        return {name: given[name] for name in self.description.inputs}
