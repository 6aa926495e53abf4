"""Tests `streamd/tools/training/export.py`: the graph equals the network at any batch size; its folder describes it."""

import dataclasses
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
from streamd.repository.versions import load_version  # noqa: E402
from streamd.tools.engine.gate.runners import run_graph  # noqa: E402
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
    assert not kinds & {"Shape", "Mod", "NonZero", "CumSum", "Einsum", "ScatterND", "If"}
    constant = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    filled = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    assert all(node.input[0] in constant for node in filled), "no shape depends on the batch"
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


class Remembering(torch.nn.Module):  # type: ignore[name-defined]
    """A network that joins the hourly means to the window, so that both must have as many rows."""

    def __init__(self, contract: Any) -> None:
        super().__init__()
        self.contract = contract
        self.mix = torch.nn.Linear(contract.context_length + contract.memory_length, 7)

    def forward(self, past: Any, past_cat: Any, calendar: Any, future_cat: Any, memory: Any) -> Any:
        joined = torch.cat([past, memory], dim=1)
        known = torch.where(torch.isnan(joined), 0.0, joined).transpose(1, 2)
        mixed = self.mix(known).index_select(1, torch.tensor(self.contract.target_index)) / 100
        later = calendar[..., :1].unsqueeze(-1) + past_cat[:, :1, :1].unsqueeze(-1) * 0.5 + future_cat[..., :1, None]
        return mixed.unsqueeze(1) + later


@pytest.fixture
def remembering(contract: Any, inputs: Any, tmp_path: Any) -> Any:
    wider = dataclasses.replace(contract, memory_length=168)
    memory = torch.rand(5, 168, 14, generator=torch.Generator().manual_seed(4)) * 100
    memory[:, ::3] = torch.nan
    writer = export.VersionWriter(tmp_path / "small_tensorrt_20260101_000000", "patch_forecaster", wider)
    windows = [*inputs, memory]
    network = Remembering(wider).eval()
    return writer.write_version(network, {"seed": 1}, windows, batches=(1, 2, 8)), network, windows


def test_a_memory_is_in_the_manifest_and_may_be_left_out_at_any_batch_size(remembering: Any) -> None:
    version, network, windows = remembering
    manifest = json.loads((version / "config.json").read_text())
    assert manifest["memory"] == {"length": 168, "step_seconds": 3600}
    assert load_version(version).contract.memory_length == 168
    assert "memory_cont may be left out" in (version / "conversion_log.txt").read_text()
    names = [*INPUT_NAMES, "memory_cont"]
    for count in (1, 3, 5):
        rows = [t[:count] for t in windows]
        given = dict(zip(names, (t.numpy() for t in rows), strict=True))
        with torch.no_grad():
            expected = network(*rows).numpy()
            without = network(*rows[:4], torch.full_like(rows[4], torch.nan)).numpy()
        assert export.compute_relative_error(run_graph(version / "model.onnx", given)["predictions"], expected) <= 1e-5
        del given["memory_cont"]
        assert export.compute_relative_error(run_graph(version / "model.onnx", given)["predictions"], without) <= 1e-5
        assert export.compute_relative_error(without, expected) > 0.1


def test_another_default_than_a_memory_without_values_is_found(remembering: Any) -> None:
    version, network, windows = remembering
    path = version / "model.onnx"
    assert export.compare_without_memory(network, path, network.contract, windows) <= 1e-5
    graph = onnx.load(path)
    (default,) = (each for each in graph.graph.initializer if each.name == "memory_cont")
    default.raw_data = torch.full((1, 168, 14), 50.0).numpy().tobytes()
    onnx.save(graph, path)
    assert export.compare_without_memory(network, path, network.contract, windows) > 0.1


def test_a_fixed_batch_is_refused(version: Any, contract: Any, tmp_path: Any) -> None:
    graph = onnx.load(version / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, tmp_path / "fixed.onnx")
    with pytest.raises(ValueError, match=r"batch axis of \['encoder_cont'\]"):
        export.check_dynamic_batch(tmp_path / "fixed.onnx", contract)
