"""A graph in OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class OpenvinoGraph:
    """Computes one batch on `threads` threads. OpenVINO chooses the precision: bfloat16 where the processor computes
    in it, else float32."""

    def __init__(self, file: Path, threads: int) -> None:
        import openvino

        self._model = openvino.Core().compile_model(
            str(file), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        )
        self._names = [port.any_name for port in self._model.inputs]

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        (output,) = self._model({name: inputs[name] for name in self._names}).values()
        return np.array(output, dtype=np.float32)  # a copy: the next batch is written to the same memory
