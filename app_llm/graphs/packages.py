"""Which packages a backend needs, and whether they are there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from app_llm.graphs.types import Backend, GraphError

INSTALL = "python3 -m launch.install backends"

TO_RUN: dict[Backend, tuple[str, ...]] = {
    "torch": (),
    "onnx": ("onnxruntime",),
    "onnx-int8": ("onnxruntime",),
    "openvino": ("openvino",),
    "openvino-int8": ("openvino",),
}
TO_EXPORT = ("onnx", "onnxscript")


def installed(package: str) -> bool:
    """Whether it could be imported."""
    return importlib.util.find_spec(package) is not None


def require(backend: Backend, *, to_export: bool = False, has: Callable[[str], bool] = installed) -> None:
    """Raises GraphError, with the command that installs them, where packages are missing."""
    needed = TO_RUN[backend] + (TO_EXPORT if to_export else ())
    if missing := [name for name in needed if not has(name)]:
        raise GraphError(
            f"The backend {backend} needs {' and '.join(missing)}, which this environment has not: {INSTALL}"
        )
