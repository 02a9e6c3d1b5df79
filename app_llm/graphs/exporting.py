"""A SentenceTransformer or CrossEncoder as a float32 ONNX graph, its pooling and all other modules included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app_llm.graphs.types import OUTPUT, GraphError, Kind
from contracts.types import Pair

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")

_WORDS = "The price of oil fell again on Monday, and nobody at the exchange in Karachi could say for how long. "
CHECKED_WITH = ("", "Who won?", "oil prices", _WORDS, "Цена нефти упала. 유가가 하락했다. 油價下跌。", _WORDS * 60)
"""Short, empty, of several scripts, and longer than any window: what every export is compared with its model on."""


def checked_with(kind: Kind) -> list[str] | list[Pair]:
    """What the check encodes, or scores."""
    if kind == "encoder":
        return list(CHECKED_WITH)
    return [Pair(question, text) for question in ("", "Who won?", _WORDS) for text in CHECKED_WITH]


def load(kind: Kind, model: Path) -> Any:
    """With sentence-transformers, on the CPU, in float32. Raises what it raises, and GraphError."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    one = SentenceTransformer if kind == "encoder" else CrossEncoder
    loaded = one(str(model), device="cpu", model_kwargs={"dtype": torch.float32})
    names = [type(module).__name__ for module in loaded]
    if names[0] != "Transformer" or (unknown := set(names) - set(_MODULES)):
        what = ", ".join(sorted(unknown)) if names[0] == "Transformer" else names[0]
        raise GraphError(f"{model} has a module of the kind {what}, which only the backend torch computes.")
    if getattr(loaded, "default_prompt_name", None) is not None:
        raise GraphError(f"{model} puts a prompt before every text, which only the backend torch does.")
    if kind == "cross-encoder" and loaded.num_labels != 1:
        raise GraphError(f"The reranker must give one score a pair; {model} gives {loaded.num_labels}.")
    return loaded.eval()


def reference(kind: Kind, model: Any, texts: Sequence[str] | Sequence[Pair]) -> NDArray[np.float32]:
    """What the model itself makes of `texts`: unit vectors, or logits in one column."""
    import torch

    if kind == "encoder":
        vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
    pairs = [list(pair) for pair in texts]
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(logits, dtype=np.float32)[:, None]


def inputs_of(kind: Kind, model: Any) -> dict[str, Any]:
    """A batch of two texts of different lengths as tensors by name, of those that the model reads."""
    texts: list[Any] = ["Who won?", "The hosts won in Karachi."]
    features = model.preprocess(texts if kind == "encoder" else [[texts[0], text] for text in texts])
    return {name: features[name] for name in INPUTS if name in features}


def export(kind: Kind, model: Any, target: Path) -> list[str]:
    """Write the graph (and its weights beside it) and give the names of its inputs."""
    import torch

    inputs = inputs_of(kind, model)
    names = list(inputs)

    class Whole(torch.nn.Module):  # type: ignore[misc]  # torch's types are not read
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            output = self.model(dict(zip(names, tensors, strict=True)))[OUTPUT[kind]]
            return output if kind == "encoder" else output.reshape(-1, 1)

    shapes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    with torch.inference_mode():
        torch.onnx.export(
            Whole().eval(),
            tuple(inputs.values()),
            str(target),
            input_names=names,
            output_names=[OUTPUT[kind]],
            dynamic_shapes=(tuple(shapes for _ in names),),
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    return names
