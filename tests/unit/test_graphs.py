"""Exports of models: what names them, what is refused, what is left when one fails, and the weights-only int8."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from app_llm.graphs import quantising
from app_llm.graphs.exported import exported, fingerprint, folder_of
from app_llm.graphs.exporting import load
from app_llm.graphs.making import kept
from app_llm.graphs.packages import require
from app_llm.graphs.running import sigmoid, unit
from app_llm.graphs.types import GraphError
from app_llm.settings import Settings
from launch.install import wanted
from tests.support.backends import needs
from tests.support.cross_encoders import tiny_cross_encoder

MINILM = Path("volumes/models/all-MiniLM-L6-v2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text("a model")
    return folder


def test_an_export_belongs_to_the_content_of_its_model(model: Path, tmp_path: Path) -> None:
    before = fingerprint(model)
    (model / "README.md").write_text("a good model")
    assert fingerprint(model) == before
    assert fingerprint(Path(shutil.copytree(model, tmp_path / "copy"))) == before
    (model / "1_Pooling" / "config.json").write_text("{} ")
    changed = fingerprint(model)
    assert changed != before
    (model / "1_Pooling" / "config.json").rename(model / "pooling.json")
    assert fingerprint(model) not in (before, changed)


def test_an_export_lies_beside_its_model_and_openvino_reads_that_for_onnx(model: Path) -> None:
    names = {folder_of(model, backend).name for backend in ("onnx", "openvino")}
    assert names == {f"model.onnx-{fingerprint(model)}"}
    assert folder_of(model, "onnx-int8").name == f"model.onnx-int8-{fingerprint(model)}"
    assert folder_of(model, "openvino-int8").name == f"model.openvino-int8-{fingerprint(model)}"
    assert folder_of(model, "onnx").parent == model.parent


def test_a_backend_whose_packages_are_missing_is_refused_with_the_command_that_installs_them() -> None:
    with pytest.raises(GraphError, match=r"openvino-int8 needs openvino, .*: python3 -m launch\.install backends$"):
        require("openvino-int8", has=lambda _: False)
    with pytest.raises(GraphError, match="needs onnxscript,"):
        require("onnx", to_export=True, has=lambda name: name != "onnxscript")
    require("onnx", has=lambda name: name == "onnxruntime")
    require("torch", has=lambda _: False)


def test_the_packages_are_installed_with_the_model_service_that_is_set_to_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("ENCODER", "RERANKER"):
        monkeypatch.delenv(f"PHAROS_LLM_{model}_BACKEND", raising=False)
    assert wanted(["cpu"], tmp_path) == ["cpu"]
    (tmp_path / ".env").write_text("PHAROS_LLM_RERANKER_BACKEND=onnx-int8\n")
    assert wanted(["cpu"], tmp_path) == ["cpu", "backends"]
    assert wanted(["gpu", "backends"], tmp_path) == ["gpu", "backends"]
    assert wanted(["dev"], tmp_path) == ["dev"]


def test_a_graph_on_a_gpu_is_refused() -> None:
    with pytest.raises(ValidationError, match="the reranker's backend onnx runs on the CPU, not on cuda:0"):
        Settings(reranker_backend="onnx", reranker_device="cuda:0")
    assert Settings(encoder_backend="openvino", encoder_device="cpu").encoder_backend == "openvino"


def test_a_model_that_is_no_folder_is_refused_with_the_command_that_fetches_it() -> None:
    needs("onnx")
    with pytest.raises(GraphError, match="hf download owner/model --local-dir volumes/models/own/model"):
        exported("encoder", Path("owner/model"), "onnx")


def test_where_nothing_can_be_written_it_says_what_to_do(tmp_path: Path) -> None:
    too_long = tmp_path / ("n" * 250)  # which root, too, cannot write
    with pytest.raises(GraphError, match=r"cannot be written \(File name too long\)\. .*app_llm\.export"):
        kept(too_long, lambda _: None)


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "model.onnx").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "model.onnx-0", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_of_two_exports_at_the_same_time_the_first_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model.onnx-0"

    def slower(unfinished: Path) -> None:
        (unfinished / "by").write_text("slower")
        folder.mkdir()
        (folder / "by").write_text("faster")

    assert kept(folder, slower) == folder
    assert (folder / "by").read_text() == "faster"
    assert list(tmp_path.iterdir()) == [folder]


def test_modules_that_only_torch_computes_are_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    static = StaticEmbedding(Tokenizer.from_file(str(MINILM / "tokenizer.json")), embedding_dim=4)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(tmp_path / "static"))
    with pytest.raises(GraphError, match="a module of the kind StaticEmbedding, which only the backend torch"):
        load("encoder", tmp_path / "static")


def test_a_model_that_puts_a_prompt_before_every_text_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MINILM), device="cpu", prompts={"read": "Read: "}, default_prompt_name="read")
    model.save_pretrained(str(tmp_path / "prompted"))
    with pytest.raises(GraphError, match="puts a prompt before every text"):
        load("encoder", tmp_path / "prompted")


def test_a_classifier_of_several_classes_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"one score a pair; .* gives 3"):
        load("cross-encoder", tiny_cross_encoder(tmp_path / "classifier", labels=3))


def test_int8_weights_are_rounded_by_their_columns(tmp_path: Path) -> None:
    needs("onnx")
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    random = np.random.default_rng(1)
    weights = random.standard_normal((8, 8), dtype=np.float32) * np.logspace(-3, 3, 8, dtype=np.float32)
    weights[:, 3] = 0  # whose scale must not be 0
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xz"]
    graph = helper.make_graph(nodes, "twice", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "float32.onnx"))
    (tmp_path / "int8").mkdir()
    quantising.weights_only(tmp_path / "float32.onnx", tmp_path / "int8" / "model.onnx")
    rewritten = onnx.load(str(tmp_path / "int8" / "model.onnx")).graph
    kept_as = {one.name: numpy_helper.to_array(one) for one in rewritten.initializer}
    assert kept_as.keys() == {"w_int8", "w_scale"}
    assert kept_as["w_int8"].dtype == np.int8
    scales = kept_as["w_scale"]
    rounded = kept_as["w_int8"] * scales
    assert (np.abs(rounded - weights) <= scales * 0.5001).all()
    assert (np.abs(kept_as["w_int8"]).max(axis=0) == [127, 127, 127, 0, 127, 127, 127, 127]).all()
    session = InferenceSession(str(tmp_path / "int8" / "model.onnx"), providers=["CPUExecutionProvider"])
    x = random.standard_normal((5, 8), dtype=np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ rounded @ rounded, rtol=1e-3)


def test_a_graph_without_weights_cannot_be_made_int8(tmp_path: Path) -> None:
    needs("onnx")
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negative", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph), str(tmp_path / "float32.onnx"))
    with pytest.raises(GraphError, match="no weights"):
        quantising.weights_only(tmp_path / "float32.onnx", tmp_path / "int8.onnx")


def test_a_sigmoid_that_does_not_overflow_and_vectors_that_may_be_zero() -> None:
    scores = sigmoid(np.array([-1000, -1, 0, 1000], np.float32))
    np.testing.assert_allclose(scores, [0, 1 / (1 + np.e), 0.5, 1], atol=1e-7)
    assert scores.dtype == np.float32
    vectors = unit(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert vectors.dtype == np.float32
