"""int8 graphs, made from the float32 one without calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app_llm.graphs.types import GraphError

_WEIGHTS = "model.onnx.data"


def dynamic(source: Path, target: Path) -> None:
    """For ONNX Runtime: int8 weights with a scale for each column; what they are multiplied with is made int8 as it
    comes, with one scale for the batch."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    # Shapes that torch's exporter wrote down contradict those that the quantiser infers again, in small models.
    del model.graph.value_info[:]
    # reduce_range, 7 bits: without it, processors that have AVX2 but no VNNI overflow; on those with VNNI it costs
    # nothing that could be measured. One file is right on both.
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        use_external_data_format=True,
    )


def weights_only(source: Path, target: Path) -> None:
    """For OpenVINO: int8 weights with a scale for each column, in the form that it reads as compressed weights; it
    makes int8 of what they are multiplied with by itself (dynamic quantisation), in groups of 32 values.

    nncf.compress_weights does the like, and brings a package that reports its use to Intel.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    done: set[str] = set()
    for node in list(graph.node):
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        name = node.input[1]
        node.input[1] = f"{name}_float"
        if name in done:  # two layers that share it
            continue
        done.add(name)
        values = numpy_helper.to_array(weights[name]).astype(np.float32)
        scales = np.maximum(np.abs(values).max(axis=0) / 127, np.finfo(np.float32).tiny)
        integers = np.clip(np.rint(values / scales), -127, 127).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}_scale"))
        back = helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_float"], axis=1)
        graph.node.insert(0, back)
    if not done:
        raise GraphError(f"{source} has no weights that could be made int8.")
    used = {name for node in graph.node for name in node.input}
    for name in done - used:
        graph.initializer.remove(weights[name])
    onnx.save(model, str(target), save_as_external_data=True, location=_WEIGHTS)
