"""Makes an export: the float32 graph from the model, the int8 ones from that; each is checked before it is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from app_llm.graphs import exporting, quantising
from app_llm.graphs.exported import DESCRIPTION, GRAPH, TOKENIZER, folder_of, open_export
from app_llm.graphs.running import sigmoid, unit
from app_llm.graphs.types import Backend, Description, GraphError, Kind
from app_llm.tokens import WindowedTokenizer

FLOAT_MIN, INT8_MIN = 0.9999, {"encoder": 0.95, "cross-encoder": 0.8}
BFLOAT16_MIN = {"encoder": 0.9999, "cross-encoder": 0.95}
"""What an export that computes something else than its model would not reach; see `Description.similarity`. Scores of a
cross-encoder are steep near one half, so that rounding moves some by much and leaves the order."""

_BATCH = 2  # fewer than there are texts to check with, so that several batches and padding are checked, too
_VERSIONS_OF = ("torch", "transformers", "sentence-transformers", "onnxscript", "onnx")


def make(kind: Kind, model: Path, backend: Backend) -> Path:
    """The folder of the export, made unless it is there. Raises GraphError, and what the libraries raise."""
    folder = folder_of(model, backend)
    if (folder / DESCRIPTION).is_file():
        return folder
    if backend in ("onnx", "openvino"):
        return kept(folder, lambda unfinished: _export(kind, model, unfinished, backend))
    source = make(kind, model, "openvino" if backend == "openvino-int8" else "onnx")
    return kept(folder, lambda unfinished: _quantise(source, unfinished, backend))


def kept(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, written beside its place and moved there whole: an interrupted export leaves nothing half-done, and of
    two processes that export at the same time one's is kept."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        write(unfinished)
        if not folder.is_dir():
            unfinished.rename(folder)
    except OSError as exc:
        raise GraphError(
            f"{folder} cannot be written ({exc.strerror or exc}). Make it where it can be, with `python -m "
            f"app_llm.export`, or build the image with it (docs/encoders.md)."
        ) from exc
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _export(kind: Kind, model: Path, target: Path, backend: Backend) -> None:
    loaded = exporting.load(kind, model)
    tokenizer = WindowedTokenizer.of(loaded)
    description = Description(
        kind=kind,
        inputs=exporting.export(kind, loaded, target / GRAPH),
        window=tokenizer.window,
        dimension=int(loaded.get_embedding_dimension()) if kind == "encoder" else 1,
        padding_token=int(loaded.tokenizer.pad_token_id or 0),
        padding_type=int(getattr(loaded.tokenizer, "pad_token_type_id", 0) or 0),
        similarity=1.0,
        versions={name: metadata.version(name) for name in _VERSIONS_OF},
    )
    (target / TOKENIZER).write_text(tokenizer.json())
    _check(target, description, exporting.reference(kind, loaded, exporting.checked_with(kind)), backend)


def _quantise(source: Path, target: Path, backend: Backend) -> None:
    quantise = quantising.weights_only if backend == "openvino-int8" else quantising.dynamic
    quantise(source / GRAPH, target / GRAPH)
    shutil.copy(source / TOKENIZER, target / TOKENIZER)
    float32 = open_export(source, backend, threads=1, batch=_BATCH)
    right = float32(exporting.checked_with(float32.description.kind)).rows
    _check(target, float32.description, right, backend)


def _check(target: Path, description: Description, right: NDArray[np.float32], backend: Backend) -> None:
    """Compare the export with what it should give, and write what it is. Raises GraphError where it is not that."""
    (target / DESCRIPTION).write_bytes(msgspec.json.encode(description))
    rows = open_export(target, backend, threads=1, batch=_BATCH)(exporting.checked_with(description.kind)).rows
    similarity = _similarity(description.kind, rows, right)
    least = _least(description.kind, backend)
    if not similarity >= least:
        raise GraphError(
            f"As {backend}, this model does not compute what it does in torch (similarity {similarity:.4f}, where "
            f"{least} is the least); use another backend."
        )
    described = msgspec.structs.replace(description, similarity=round(similarity, 6))
    (target / DESCRIPTION).write_bytes(msgspec.json.encode(described))


def _least(kind: Kind, backend: Backend) -> float:
    if backend.endswith("int8"):
        return INT8_MIN[kind]
    return BFLOAT16_MIN[kind] if backend == "openvino" else FLOAT_MIN


def _similarity(kind: Kind, rows: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    if kind == "encoder":
        return float((unit(rows) * unit(right)).sum(axis=1).min())
    return float(1 - np.abs(sigmoid(rows) - sigmoid(right)).max())
