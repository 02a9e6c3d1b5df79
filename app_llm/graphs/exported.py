"""Exported models on disk: beside the model, in a folder whose name says what it is and what it was made from."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import msgspec

from app_llm.graphs.packages import require
from app_llm.graphs.running import GraphModel
from app_llm.graphs.types import Backend, Description, Graph, GraphError, Kind
from app_llm.tokens import WindowedTokenizer

log = logging.getLogger(__name__)

RECIPE = 1
"""Counts up when exports are made differently: those of another number are not used."""

GRAPH, TOKENIZER, DESCRIPTION = "model.onnx", "tokenizer.json", "export.json"

_FORM: dict[Backend, str] = {
    "onnx": "onnx",
    "openvino": "onnx",  # it reads the same graph
    "onnx-int8": "onnx-int8",
    "openvino-int8": "openvino-int8",
}


def open_model(kind: Kind, model: str, backend: Backend, threads: int, batch: int) -> GraphModel:
    """The model, exported first where that has not been done yet. Raises GraphError."""
    return open_export(exported(kind, Path(model), backend), backend, threads, batch)


def exported(kind: Kind, model: Path, backend: Backend) -> Path:
    """The folder with the model's graph for this backend, made where it is not there. Raises GraphError."""
    require(backend)
    if not model.is_dir():
        raise GraphError(
            f"The backend {backend} needs the model as a folder, which {model} is not; fetch it first: "
            f"hf download {model} --local-dir volumes/models/own/{model.name}"
        )
    folder = folder_of(model, backend)
    if (folder / DESCRIPTION).is_file():
        return folder
    require(backend, to_export=True)
    log.info("exporting %s to %s (under a minute on a quiet machine, once)", model, folder)
    # In a process of its own: the exporters' memory and their words end with it.
    command = [sys.executable, "-W", "ignore", "-m", "app_llm.export", kind, str(model), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise GraphError(said[-1].removeprefix("pharos: ") if said else f"The export of {model} failed.")
    return folder


def folder_of(model: Path, backend: Backend) -> Path:
    """Where the export of exactly these files belongs."""
    model = model.absolute()  # not where a link leads: that may be read-only
    return model.with_name(f"{model.name}.{_FORM[backend]}-{fingerprint(model)}")


def fingerprint(model: Path) -> str:
    """Of the content of every file but notes, so that a model that was trained again is exported again."""
    digest = hashlib.sha256(f"{RECIPE}".encode())
    for file in sorted(file for file in model.rglob("*") if file.is_file() and file.suffix != ".md"):
        digest.update(f"\0{file.relative_to(model)}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


def open_export(folder: Path, backend: Backend, threads: int, batch: int) -> GraphModel:
    """What an export's folder holds, ready to compute. Raises what the backend's library raises."""
    description = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=Description)
    tokenizer = WindowedTokenizer((folder / TOKENIZER).read_text(), description.window)
    return GraphModel(_graph(backend, folder / GRAPH, threads), tokenizer, description, batch)


def _graph(backend: Backend, file: Path, threads: int) -> Graph:
    if backend.startswith("openvino"):
        from app_llm.graphs.openvino import OpenvinoGraph

        return OpenvinoGraph(file, threads)
    from app_llm.graphs.onnx import OnnxGraph

    return OnnxGraph(file, threads)
