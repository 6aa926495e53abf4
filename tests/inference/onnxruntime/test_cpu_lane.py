"""Tests `streamd/inference/onnxruntime/cpu_lane.py`.

The CPU lane: real graphs run, foreign ones are refused with the reason.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend, OnnxRuntimeCpuLane
from streamd.repository.versions import EngineRepository, load_version
from tests.support.contracts import make_contract
from tests.support.memory_version import compute_memory_forecast, make_memory_contract, make_memory_version
from tests.support.onnx_bytes import FLOAT, INT64, Tensor, identity_model, tensors_of

ENGINES = Path(__file__).parents[3] / "engines"

# Four quantiles, so that a graph which gives the calendar back is to the contract.
CONTRACT = make_contract(targets=("cpu",), quantiles=(0.1, 0.5, 0.9, 0.95))


def make_backend(folder: Path, tensors: dict[str, Tensor], contract: ModelContract = CONTRACT) -> OnnxRuntimeCpuBackend:
    *inputs, output = tensors.values()
    model = folder / "model.onnx"
    model.write_bytes(identity_model(inputs, [output], "decoder_cont", output[0]))
    return OnnxRuntimeCpuBackend(model, contract, (1, 4), 1)


def fill(inputs: Inputs, rows: int, seed: int = 3) -> None:
    """Windows as real ones are: raw units, some values missing."""
    random = np.random.default_rng(seed)
    shape = inputs.encoder_cont[:rows].shape
    inputs.encoder_cont[:rows] = random.uniform(0, 100, shape)
    inputs.encoder_cont[:rows][random.random(shape) < 0.1] = np.nan
    inputs.encoder_cat[:rows] = 0
    inputs.decoder_cont[:rows] = random.uniform(-1, 1, inputs.decoder_cont[:rows].shape)
    inputs.decoder_cat[:rows] = 0


# ---------------------------------------------------------------- the embedded model
def test_windows_alone_and_in_a_batch_have_the_same_forecasts() -> None:
    version = EngineRepository(ENGINES).choose()
    contract = version.contract
    lane = OnnxRuntimeCpuBackend(version.onnx, contract, (1, 4), 1).make_lane(0)
    fill(lane.inputs, 3)
    windows = {name: buffer.copy() for name, buffer in lane.inputs.view_first(3).items()}
    together = lane.run(3).copy()
    assert together.shape == (3, contract.horizon, len(contract.targets), len(contract.quantiles))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert (np.diff(together, axis=-1) >= 0).all(), "quantiles do not cross"
    for row in range(3):
        for name, buffer in lane.inputs.view_first(1).items():
            buffer[0] = windows[name][row]
        np.testing.assert_allclose(lane.run(1)[0], together[row], rtol=1e-3, atol=1e-3)
    lane.close()


# ---------------------------------------------------------------- a memory
@pytest.mark.parametrize("has_default", [True, False])
def test_a_model_that_remembers_gets_the_memory_of_each_window(
    tmp_path: Path, has_default: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    contract = make_memory_contract()
    version = load_version(make_memory_version(tmp_path, "a_20250101_000000", contract, has_default=has_default))
    lane = OnnxRuntimeCpuBackend(version.onnx, contract, (1, 4), 1).make_lane(0)
    fill_integers(lane.inputs)
    assert lane.inputs.memory_cont is not None
    lane.inputs.memory_cont[1, :100] = np.nan
    lane.inputs.forget_memory(2, 3)
    newest, memory = lane.inputs.encoder_cont[:, -1], lane.inputs.memory_cont
    expected = [compute_memory_forecast(contract, newest[row], memory[row]) for row in range(3)]
    np.testing.assert_array_equal(lane.run(3), np.stack(expected))
    assert len({forecast.tobytes() for forecast in expected}) == 3
    assert capfd.readouterr().err == "", "ONNX Runtime warns of a default value, unless it is told to be silent"


def fill_integers(inputs: Inputs) -> None:
    """Fill inputs with small numbers, whose sums are exact."""
    random = np.random.default_rng(4)
    for buffer in inputs.view_first(len(inputs.encoder_cont)).values():
        buffer[:] = random.integers(0, 9, buffer.shape)


def test_a_model_that_asks_for_no_memory_runs_without_one_even_if_its_graph_takes_it(tmp_path: Path) -> None:
    contract = make_memory_contract()
    path = make_memory_version(tmp_path, "a_20250101_000000", contract, memory=None)
    plain = load_version(path).contract
    assert plain.memory_length == 0
    lane = OnnxRuntimeCpuBackend(path / "model.onnx", plain, (1,), 1).make_lane(0)
    assert lane.inputs.memory_cont is None
    fill_integers(lane.inputs)
    expected = compute_memory_forecast(contract, lane.inputs.encoder_cont[0, -1], np.zeros((168, 3)))
    np.testing.assert_array_equal(lane.run(1)[0], expected)


def test_a_graph_without_the_memory_of_the_contract_is_refused(tmp_path: Path) -> None:
    contract = make_contract(targets=("cpu",), quantiles=(0.1, 0.5, 0.9, 0.95), context_length=12, memory_length=168)
    tensors = tensors_of(replace(contract, memory_length=0))
    with pytest.raises(BackendUnavailableError, match=r"the graph has inputs .*, expected 'memory_cont'"):
        make_backend(tmp_path, tensors, contract).make_lane(0)


# ---------------------------------------------------------------- tiny graphs
def test_a_graph_to_the_contract_runs(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, tensors_of(CONTRACT))
    lane = backend.make_lane(7)
    assert (lane.name, lane.buckets, lane.pads, lane.device) == ("cpu-7", (1, 4), False, "cpu")
    fill(lane.inputs, 3)
    forecasts = lane.run(3)
    np.testing.assert_array_equal(forecasts, lane.inputs.decoder_cont[:3].reshape(3, 4, 1, 4))
    assert backend.describe()["threads_per_lane"] == 1
    assert backend.default_lanes == len(os.sched_getaffinity(0)) + 1
    lane.check()
    assert lane.describe() == {}


def test_lanes_share_no_buffers(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, tensors_of(CONTRACT))
    first, second = backend.make_lane(0), backend.make_lane(1)
    for name, buffer in first.inputs.view_first(4).items():
        assert not np.shares_memory(buffer, second.inputs.view_first(4)[name])


def changed(name: str, *tensor: Any) -> dict[str, Tensor]:
    return {**tensors_of(CONTRACT), name: tensor}


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (changed("encoder_cat", "encoder_cat", INT64, ("batch", 8, 2)), "encoder_cat is tensor"),
        (changed("encoder_cont", "encoder_cont", FLOAT, ("batch", 9, 3)), "encoder_cont is"),
        (changed("encoder_cont", "encoder_cont", FLOAT, ("batch", 8)), "encoder_cont is"),
        (changed("encoder_cont", "encoder_cont", FLOAT, (2, 8, 3)), "fixed batch of 2"),
        (changed("encoder_cont", "features", FLOAT, ("batch", 8, 3)), "expected 'encoder_cont'"),
        (changed("predictions", "forecast", FLOAT, ("batch", 4, 4)), "expected 'predictions'"),
        (changed("predictions", "predictions", FLOAT, ("batch", 4, 2, 4)), "predictions is"),
    ],
)
def test_a_foreign_graph_is_refused_with_the_reason(tmp_path: Path, tensors: dict[str, Tensor], named: str) -> None:
    backend = make_backend(tmp_path, tensors)
    with pytest.raises(BackendUnavailableError, match=named) as caught:
        backend.make_lane(0)
    assert "model.onnx" in str(caught.value)


def untold(folder: Path, *shape: int) -> OnnxRuntimeCpuBackend:
    """`predictions` is `decoder_cont` in this shape, which nothing tells before it runs; -1 is what is left."""
    onnx = pytest.importorskip("onnx")
    make_node, given = onnx.helper.make_node, list(tensors_of(CONTRACT).values())[:-1]
    nodes = [
        make_node("Compress", ["shape", "mask"], ["wanted"]),
        make_node("Reshape", ["decoder_cont", "wanted"], ["predictions"]),
    ]
    weights = [onnx.numpy_helper.from_array(np.array(shape), "shape")]
    weights.append(onnx.numpy_helper.from_array(np.ones(len(shape), bool), "mask"))
    inputs = [onnx.helper.make_tensor_value_info(*tensor) for tensor in given]
    output = onnx.helper.make_tensor_value_info("predictions", FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "untold", inputs, [output], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxRuntimeCpuBackend(folder / "model.onnx", CONTRACT, (1, 4), 1)


def test_a_graph_that_does_not_tell_its_output_s_axes_runs(tmp_path: Path) -> None:
    lane = untold(tmp_path, -1, 4, 4).make_lane(0)
    fill(lane.inputs, 3)
    np.testing.assert_array_equal(lane.run(3), lane.inputs.decoder_cont[:3].reshape(3, 4, 1, 4))


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((-1, 8), r"predictions is \(2, 8\) for one window, expected \(1, 4, 4\)"),
        ((5, -1), "one window of zeros does not run"),
    ],
)
def test_what_it_gives_is_looked_at_when_it_is_opened(tmp_path: Path, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(BackendUnavailableError, match=named) as caught:
        untold(tmp_path, *shape).make_lane(0)
    assert "model.onnx" in str(caught.value)


def test_a_batch_size_that_is_baked_in_fails_that_batch_alone(tmp_path: Path) -> None:
    lane = untold(tmp_path, 1, -1, 4).make_lane(0)
    fill(lane.inputs, 3)
    with pytest.raises(BatchFailedError, match=r"the graph gave \(1, 12, 4\) for 3 windows, expected \(3, 4, 1, 4\)"):
        lane.run(3)
    np.testing.assert_array_equal(lane.run(1), lane.inputs.decoder_cont[:1].reshape(1, 4, 1, 4))


def test_an_input_that_the_contract_lacks_is_refused(tmp_path: Path) -> None:
    tensors = {"mask": ("mask", FLOAT, ("batch", 8)), **tensors_of(CONTRACT)}
    with pytest.raises(BackendUnavailableError, match="mask"):
        make_backend(tmp_path, tensors).make_lane(0)


def test_an_axis_that_the_graph_leaves_open_fits(tmp_path: Path) -> None:
    lane = make_backend(tmp_path, changed("encoder_cont", "encoder_cont", FLOAT, ("batch", "rows", 3))).make_lane(0)
    assert lane.run(1).shape == (1, 4, 1, 4)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    with pytest.raises(BackendUnavailableError, match=r"model\.onnx"):
        OnnxRuntimeCpuBackend(model, CONTRACT, (1,), 1).make_lane(0)


def test_the_runtime_s_own_errors_are_translated() -> None:
    class Session:
        def run(self, *_: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT")

    lane = OnnxRuntimeCpuLane("cpu-0", Session(), CONTRACT, (1,))
    with pytest.raises(BatchFailedError, match=r"cpu-0.*INVALID_ARGUMENT") as caught:
        lane.run(1)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_closed_lane_refuses_and_closes_twice(tmp_path: Path) -> None:
    lane = make_backend(tmp_path, tensors_of(CONTRACT)).make_lane(0)
    lane.close()
    lane.close()
    with pytest.raises(BatchFailedError, match="closed"):
        lane.run(1)
