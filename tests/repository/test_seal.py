"""Tests `streamd/repository/seal.py`.

What a version's lanes may load is noted when it is checked; another file is refused whenever a lane is made.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from streamd.core.errors import BackendUnavailableError
from streamd.inference.checked import CheckedFiles, read_checked
from streamd.inference.ensemble import EnsembleBackend
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.repository.seal import SealedVersion, list_changed_files, seal_version
from streamd.repository.versions import load_version
from tests.support.made_versions import CONTRACT, add_plan, digest, make, pin, tell
from tests.support.onnx_bytes import tensors_of

NAME = "a_20260101_000000"
DATA = "model.onnx.data"


def sealed_of(path: Path) -> SealedVersion:
    return seal_version(load_version(path))


def backend_of(version: SealedVersion) -> OnnxRuntimeCpuBackend:
    checked = CheckedFiles(version.path, version.sha256, version.data)
    return OnnxRuntimeCpuBackend(version.onnx, version.contract, (1, 4), 1, checked=checked)


def add_weights(path: Path, value: float, location: str = DATA) -> None:
    """A graph whose forecast is a weight, kept in a file of its own, whatever the window."""
    *inputs, output = tensors_of(CONTRACT).values()
    shape = [CONTRACT.horizon, len(CONTRACT.quantiles)]
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["decoder_cont", "zero", "one", "axis"], ["first"]),
            helper.make_node("Mul", ["first", "nothing"], ["none"]),
            helper.make_node("Add", ["none", "weights"], ["predictions"]),
        ],
        "weighted",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*output)],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, shape, np.full(shape, value, np.float32).tobytes(), True),
            helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path / "model.onnx", save_as_external_data=True, location=DATA, size_threshold=0)
    if location != DATA:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (path / "model.onnx").write_bytes(model.SerializeToString())


def answer_of(backend: OnnxRuntimeCpuBackend) -> float:
    lane = backend.make_lane(0)
    answer = float(lane.run(1).flat[0])
    lane.close()
    return answer


@pytest.mark.parametrize("listed", [False, True])
def test_a_graph_that_was_replaced_is_refused_whenever_a_lane_is_made(tmp_path: Path, listed: bool) -> None:
    path = make(tmp_path, NAME)
    if listed:
        pin(path, {"model.onnx": digest(path / "model.onnx")})
    version, before = sealed_of(path), (path / "model.onnx").read_bytes()
    backend = backend_of(version)
    backend.make_lane(0).close()
    (path / "model.onnx").write_bytes(before + b"\x72\x00")  # the same graph, and one field more
    if listed:  # together with its record, so that it is sound
        pin(path, {"model.onnx": digest(path / "model.onnx")})
    assert list_changed_files(version, sealed_of(path)) == ["model.onnx"]
    with pytest.raises(BackendUnavailableError, match=r"model\.onnx: changed since it was checked"):
        backend.make_lane(1)
    with pytest.raises(BackendUnavailableError, match="changed since"):
        EnsembleBackend([backend_of(sealed_of(make(tmp_path, "b_20260101_000000"))), backend]).make_lane(0)
    (path / "model.onnx").unlink()
    with pytest.raises(BackendUnavailableError, match=r"model\.onnx: cannot be read"):
        backend.make_lane(1)
    (path / "model.onnx").write_bytes(before)
    backend.make_lane(1).close()


DOT_SLASH = pytest.param(
    f"./{DATA}",
    marks=pytest.mark.skipif(
        tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31),
        reason="before 1.31, ONNX Runtime finds no weights in memory behind ./ (findings/)",
    ),
)


@pytest.mark.parametrize("location", [DATA, DOT_SLASH])
def test_a_file_of_weights_that_was_replaced_is_refused_too(tmp_path: Path, location: str) -> None:
    path = make(tmp_path, NAME)
    add_weights(path, 1.5, location)
    version = sealed_of(path)
    assert version.data == {"model.onnx": (location,)}
    assert set(version.sha256) == {"model.onnx", DATA}
    backend = backend_of(version)
    assert answer_of(backend) == 1.5
    running = backend.make_lane(0)
    content = (path / DATA).read_bytes()
    (path / DATA).write_bytes(np.full(len(content) // 4, 2.5, np.float32).tobytes())
    with pytest.raises(BackendUnavailableError, match=r"model\.onnx\.data: changed since it was checked"):
        backend.make_lane(1)
    assert list_changed_files(version, sealed_of(path)) == [DATA]
    assert float(running.run(1).flat[0]) == 1.5, "what runs has its own copy"
    (path / DATA).write_bytes(b"")
    assert float(running.run(1).flat[0]) == 1.5
    (path / DATA).write_bytes(content)
    assert answer_of(backend) == 1.5


def test_data_that_was_not_there_when_it_was_checked_is_not_loaded(tmp_path: Path) -> None:
    path = make(tmp_path, NAME)
    add_weights(path, 1.5)
    version = sealed_of(path)
    checked = CheckedFiles(path, {"model.onnx": version.sha256["model.onnx"]}, version.data)
    backend = OnnxRuntimeCpuBackend(version.onnx, version.contract, (1, 4), 1, checked=checked)
    with pytest.raises(BackendUnavailableError, match="did not exist when"):
        backend.make_lane(0)


def test_graphs_and_plans_that_are_listed_are_sealed(tmp_path: Path) -> None:
    path = make(tmp_path, NAME)
    (path / "model_int8.onnx").write_bytes((path / "model.onnx").read_bytes() + b"\x72\x00")
    pin(path, {"model_int8.onnx": digest(path / "model_int8.onnx")})
    tell(path, graphs={"int8": {"file": "model_int8.onnx"}})
    plan = add_plan(path, "fp16")
    version = sealed_of(path)
    assert dict(version.sha256) == {each.name: digest(each) for each in sorted(path.iterdir()) if "model" in each.name}
    plan.write_bytes(b"another plan")
    assert list_changed_files(version, sealed_of(path)) == [], "a plan is compared when it is loaded"


def test_an_empty_hash_stands_for_any_content(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"x")
    assert read_checked(tmp_path / "plan", "") == b"x"
    assert read_checked(tmp_path / "plan", digest(tmp_path / "plan")) == b"x"
    with pytest.raises(BackendUnavailableError, match="changed"):
        read_checked(tmp_path / "plan", "0" * 64)


def test_a_version_whose_list_of_graphs_cannot_be_read_is_sealed_all_the_same(tmp_path: Path) -> None:
    path = make(tmp_path, NAME)
    (path / "conversion_info.json").write_text(json.dumps({"graphs": 5}))
    assert set(sealed_of(path).sha256) == {"model.onnx"}
