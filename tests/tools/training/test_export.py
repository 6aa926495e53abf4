"""Tests `streamd/tools/training/export.py`: the graph equals the network at any batch size; its folder describes it."""

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from streamd.repository.conversion import hash_file  # noqa: E402
from streamd.tools.networks.contract import INPUT_NAMES  # noqa: E402
from streamd.tools.training import export  # noqa: E402
from streamd.tools.training.predictors import make_onnx_predictor  # noqa: E402


@pytest.fixture
def version(model: Any, contract: Any, inputs: Any, tmp_path: Any) -> Any:
    folder = tmp_path / "small_tensorrt_20260101_000000"
    inputs[0][:, ::4] = torch.nan
    inputs[0][1, :, 3] = torch.nan
    writer = export.VersionWriter(folder, "patch_forecaster", contract, default=True)
    return writer.write_version(model, {"seed": 1}, inputs, batches=(1, 2, 3, 8))


def test_the_folder_describes_the_version_and_has_no_pickle(version: Any, contract: Any) -> None:
    manifest = json.loads((version / "config.json").read_text())
    assert manifest["name"] == version.name
    assert manifest["features"] == list(contract.features)
    assert manifest["targets"][:6] == ["cpu_user", "mem_used", "disk_usage", "net_in", "net_out", "load_average"]
    assert manifest["units"]["net_in"] == "bytes/s"
    assert manifest["default"] is True
    info = json.loads((version / "conversion_info.json").read_text())
    assert info["largest_relative_error"] <= export.TOLERANCE
    assert info["sha256"]["model.onnx"] == hash_file(version / "model.onnx")
    assert not [p for p in version.iterdir() if p.suffix in (".pt", ".pth", ".pkl", ".bin", ".data")]


def test_the_graph_has_the_contracts_shapes_and_only_supported_operators(version: Any) -> None:
    graph = onnx.load(version / "model.onnx").graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert shapes["encoder_cont"] == ["batch", 288, 14]
    assert shapes["decoder_cat"] == ["batch", 96, 2]
    assert [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim][1:] == [96, 7, 7]
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"Shape", "Mod", "ConstantOfShape", "NonZero", "TopK", "CumSum", "Einsum", "ScatterND", "If"}
    raw = {v.name for v in graph.input if v.name == "encoder_cont"}
    assert {n.name.split("/")[1] for n in graph.node if raw & set(n.input)} == {"scaler"}
    assert {n.name.split("/")[1] for n in graph.node if "predictions" in n.output} == {"restorer"}
    whole = {v.name for v in graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.INT32}
    assert whole == {"encoder_cat", "decoder_cat"}


def test_a_larger_batch_than_any_compared(version: Any, model: Any, inputs: Any) -> None:
    many = [t.repeat(9, *[1] * (t.ndim - 1)) for t in inputs]
    out = make_onnx_predictor(version / "model.onnx", 1)(dict(zip(INPUT_NAMES, (t.numpy() for t in many), strict=True)))
    with torch.no_grad():
        expected = model(*many).numpy()
    assert export.compute_relative_error(out, expected) <= export.TOLERANCE


def test_a_fixed_batch_is_refused(version: Any, tmp_path: Any) -> None:
    graph = onnx.load(version / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, tmp_path / "fixed.onnx")
    with pytest.raises(ValueError, match=r"batch axis of \['encoder_cont'\]"):
        export.check_dynamic_batch(tmp_path / "fixed.onnx")
