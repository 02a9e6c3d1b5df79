"""What a graph is, and what goes wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Backend = Literal["torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]
"""torch computes the model as it is saved; the others a graph that is exported from it once."""

Kind = Literal["encoder", "cross-encoder"]

OUTPUT: dict[Kind, str] = {"encoder": "sentence_embedding", "cross-encoder": "scores"}
"""What sentence-transformers calls the result of its last module."""


class GraphError(Exception):
    """A model that a graph backend cannot serve; the message says what to do."""


class Graph(Protocol):
    """A model's forward pass on one batch."""

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """One row for each text: the vectors of an encoder, the logits of a cross-encoder in one column."""
        ...


class Description(msgspec.Struct, frozen=True):
    """What one has to know of an exported model besides its graph and tokenizer (`export.json`).

    `dimension` is 1 for a cross-encoder. `similarity` is the lowest cosine between its vectors and those of the model
    it was made from, on the texts that every export is checked with; for a cross-encoder, 1 less the largest
    difference of two scores.
    """

    kind: Kind
    inputs: list[str]
    window: int
    dimension: int
    padding_token: int
    padding_type: int
    similarity: float
    versions: dict[str, str]
