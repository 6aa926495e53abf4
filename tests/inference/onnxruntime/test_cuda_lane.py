"""Tests `streamd/inference/onnxruntime/cuda_lane.py`.

The CUDA lanes of ONNX Runtime: never silently on the CPU, and a broken device told from a bad batch.

The library's GPU package and CUDA are stood in for; the test marked `gpu` runs the real ones.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference import cuda
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.inference.onnxruntime.cuda_lane import OnnxRuntimeCudaBackend, OnnxRuntimeCudaLane
from streamd.inference.onnxruntime.library import mentions_broken_device
from streamd.repository.versions import EngineRepository
from tests.support.contracts import make_contract
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_onnxruntime_gpu import FakeOnnxRuntimeGpu, Script
from tests.support.memory_version import compute_memory_forecast, make_memory_contract, make_memory_version
from tests.support.onnx_bytes import identity_model, tensors_of

ENGINES = Path(__file__).parents[3] / "engines"

# Four quantiles, so that a graph which gives the calendar back is to the contract.
CONTRACT = make_contract(targets=("cpu",), quantiles=(0.1, 0.5, 0.9, 0.95))
ILLEGAL_ADDRESS = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=web ; file=x.cc"


@pytest.fixture
def script(device: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script(cuda=device)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntimeGpu(str(tmp_path), script))
    monkeypatch.setattr("streamd.inference.onnxruntime.session.leak_deliberately", script.keep)
    yield script
    assert script.sessions == 0, "no session outlives its lane, but for being kept"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A graph whose forecasts are the calendar."""
    *inputs, output = tensors_of(CONTRACT).values()
    path = tmp_path / "model.onnx"
    path.write_bytes(identity_model(inputs, [output], "decoder_cont", output[0]))
    return path


@pytest.fixture
def without_cuda_python(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.cuda = None
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def lane(script: Script, model: Path) -> Iterator[OnnxRuntimeCudaLane]:
    lane = OnnxRuntimeCudaBackend(model, CONTRACT, (1, 4)).make_lane(0)
    yield lane
    lane.close()


def fill(inputs: Inputs, seed: int = 3) -> None:
    """Windows as real ones are: raw units, some values missing."""
    random = np.random.default_rng(seed)
    inputs.encoder_cont[:] = random.uniform(0, 100, inputs.encoder_cont.shape)
    inputs.encoder_cont[random.random(inputs.encoder_cont.shape) < 0.1] = np.nan
    inputs.decoder_cont[:] = random.uniform(-1, 1, inputs.decoder_cont.shape)


# ---------------------------------------------------------------- lanes that run
def test_batches_of_any_size_come_back_as_they_went_in(lane: OnnxRuntimeCudaLane, script: Script) -> None:
    assert (lane.name, lane.device, lane.buckets, lane.pads) == ("cuda:0/0", "cuda:0", (1, 4), False)
    for seed, count in enumerate((3, 1, 4, 4, 2)):
        fill(lane.inputs, seed)
        forecasts = lane.run(count)
        assert forecasts.dtype == np.float32
        np.testing.assert_array_equal(forecasts, lane.inputs.decoder_cont[:count].reshape(count, 4, 1, 4))
    assert script.bound == 4 * 5, "four changes of size, five tensors each"
    lane.check()


def test_a_memory_is_bound_like_the_other_inputs_whether_or_not_the_graph_has_a_default(
    script: Script, tmp_path: Path
) -> None:
    contract = make_memory_contract()
    model = make_memory_version(tmp_path, "a_20250101_000000", contract) / "model.onnx"
    lane = OnnxRuntimeCudaBackend(model, contract, (1, 4)).make_lane(0)
    assert lane.inputs.memory_cont is not None
    lane.inputs.encoder_cont[:] = 3.0
    lane.inputs.memory_cont[:] = np.arange(4)[:, None, None]
    expected = [compute_memory_forecast(contract, np.full(3, 3.0), np.full((168, 3), row)) for row in range(4)]
    np.testing.assert_array_equal(lane.run(4), np.stack(expected))
    assert script.bound == 6
    lane.close()


def test_inputs_are_pinned_and_a_run_waits_asleep(lane: OnnxRuntimeCudaLane, device: FakeCuda) -> None:
    for buffer in lane.inputs.view_first(4).values():
        assert buffer.ctypes.data in device.memory
        assert not buffer.any(), "what nobody has filled is zero"
    device.calls.clear()
    lane.run(2)
    assert device.calls[-2:] == ["cudaEventRecord", "cudaEventSynchronize"]
    assert device.calls.count("cudaMemcpyAsync") == 5


def test_lanes_are_spread_over_the_devices_on_streams_of_their_own(script: Script, model: Path) -> None:
    backend = OnnxRuntimeCudaBackend(model, CONTRACT, (1,), (1, 0), lanes_per_device=2)
    assert backend.default_lanes == 4
    lanes = [backend.make_lane(index) for index in range(4)]
    assert [lane.name for lane in lanes] == ["cuda:1/0", "cuda:0/0", "cuda:1/1", "cuda:0/1"]
    assert [options["device_id"] for options in script.options] == ["1", "0", "1", "0"]
    assert len({options["user_compute_stream"] for options in script.options}) == 4
    for seed, lane in enumerate(lanes):
        fill(lane.inputs, seed)
    for lane in lanes:
        np.testing.assert_array_equal(lane.run(1), lane.inputs.decoder_cont.reshape(1, 4, 1, 4))
        lane.close()


def test_a_lane_s_memory_is_its_share_of_the_device_s(lane: OnnxRuntimeCudaLane, script: Script) -> None:
    (options,) = script.options
    assert int(options["gpu_mem_limit"]) == int(0.9 * (1 << 40)) // 4
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_precision_is_what_was_asked_for(script: Script, model: Path) -> None:
    for tensor_float32, precision, option in ((False, "fp32", "0"), (True, "tf32", "1")):
        backend = OnnxRuntimeCudaBackend(model, CONTRACT, (1,), tensor_float32=tensor_float32)
        backend.make_lane(0).close()
        assert (backend.precision, script.options[-1]["use_tf32"]) == (precision, option)


def test_what_it_tells(lane: OnnxRuntimeCudaLane, model: Path) -> None:
    assert OnnxRuntimeCudaBackend(model, CONTRACT, (1,), (1,)).describe() == {
        "onnxruntime": "1.99.0",
        "cuda": "13.0",
        "devices": {"cuda:1": "Fake GPU"},
    }
    # The stand-in's graph really runs on the CPU: nothing that does is kept silent.
    assert lane.describe() == {"stream": "its own", "nodes_on_cpu": 1}


def test_a_closed_lane_refuses_and_closes_twice(lane: OnnxRuntimeCudaLane) -> None:
    lane.close()
    lane.close()
    lane.check()
    with pytest.raises(BatchFailedError, match="closed"):
        lane.run(1)


@pytest.mark.parametrize("count", [0, 5, -1])
def test_a_batch_that_does_not_fit_is_refused(lane: OnnxRuntimeCudaLane, count: int) -> None:
    with pytest.raises(BatchFailedError, match=f"a batch of {count}, expected 1 to 4"):
        lane.run(count)


# ---------------------------------------------------------------- without cuda-python
@pytest.mark.usefixtures("without_cuda_python")
def test_without_cuda_python_the_runtime_owns_the_stream_and_says_so(script: Script, model: Path) -> None:
    backend = OnnxRuntimeCudaBackend(model, CONTRACT, (1, 4))
    lane = backend.make_lane(0)
    fill(lane.inputs)
    np.testing.assert_array_equal(lane.run(3), lane.inputs.decoder_cont[:3].reshape(3, 4, 1, 4))
    assert "cuda-python is not installed" in lane.describe()["stream"]
    assert "user_compute_stream" not in script.options[0]
    assert backend.describe()["devices"] == {"cuda:0": ""}
    lane.check()
    script.failures.extend([ILLEGAL_ADDRESS, "INVALID_ARGUMENT"])
    with pytest.raises(LaneLostError) as lost:
        lane.run(1)
    assert lost.value.device_gone
    with pytest.raises(BatchFailedError, match="INVALID_ARGUMENT"):
        lane.run(1)
    lane.close()


# ---------------------------------------------------------------- where it cannot run
def test_a_session_that_runs_on_the_cpu_is_refused_with_what_is_missing(script: Script, model: Path) -> None:
    script.providers = ("CPUExecutionProvider",)
    with pytest.raises(BackendUnavailableError, match="left CUDA out") as refused:
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,)).make_lane(0)
    told = str(refused.value)
    assert "libonnxruntime_providers_cuda.so: cannot open shared object file" in told
    assert "CUDA 13.0 and cuDNN 9" in told
    assert "onnxruntime-gpu[cuda,cudnn]" in told


def test_a_build_without_cuda_is_refused(script: Script, model: Path) -> None:
    script.available = ("CPUExecutionProvider",)
    with pytest.raises(BackendUnavailableError, match=r"without CUDA.*onnxruntime-gpu"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,))


def test_without_the_package_it_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match="onnxruntime cannot be imported"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,))


def test_devices_that_are_not_there_are_refused(script: Script, device: FakeCuda, model: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"devices \[2\] do not exist, expected 0 to 1"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,), (0, 2))
    device.devices = 0
    with pytest.raises(BackendUnavailableError, match=r"no CUDA device.*cudaErrorInsufficientDriver"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,))


@pytest.mark.usefixtures("script")
def test_what_the_library_prints_stays_unsaid(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OnnxRuntimeCudaBackend(model, CONTRACT, (1,))
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_model_is_refused(script: Script, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BackendUnavailableError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        OnnxRuntimeCudaBackend(tmp_path / "model.onnx", CONTRACT, (1,)).make_lane(0)


def test_a_graph_that_is_not_to_the_contract_is_refused(script: Script, model: Path) -> None:
    other = make_contract(targets=("cpu",), quantiles=(0.1, 0.5, 0.9))
    with pytest.raises(BackendUnavailableError, match="predictions is"):
        OnnxRuntimeCudaBackend(model, other, (1,)).make_lane(0)


@pytest.mark.parametrize("text", ["CUDA failure 2: out of memory ; GPU=0", "Failed to allocate memory for requested"])
def test_a_session_without_room_is_refused_with_the_way_out(script: Script, model: Path, text: str) -> None:
    script.refusals.append(text)
    with pytest.raises(BackendUnavailableError, match="; open fewer lanes or smaller buckets"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,)).make_lane(0)


@pytest.mark.parametrize(
    ("function", "earlier"),
    [("cudaStreamCreateWithPriority", 0), ("cudaEventCreateWithFlags", 0)]
    + [("cudaHostAlloc", earlier) for earlier in range(5)]
    + [("cudaMalloc", earlier) for earlier in range(5)],
)
def test_buffers_without_room_are_refused_and_nothing_is_left(
    script: Script, device: FakeCuda, model: Path, function: str, earlier: int
) -> None:
    device.fail(function, *[0] * earlier, 2)
    with pytest.raises(BackendUnavailableError, match=rf"cuda:0/0: {function}.*open fewer lanes"):
        OnnxRuntimeCudaBackend(model, CONTRACT, (1,)).make_lane(0)
    assert device.left == 0
    assert cuda.count_live() == {}


# ---------------------------------------------------------------- batches and devices that fail
@pytest.mark.parametrize("text", ["[ONNXRuntimeError] : 2 : INVALID_ARGUMENT", "CUDA failure 2: out of memory ; GPU=0"])
def test_a_batch_that_fails_leaves_the_lane_sound(lane: OnnxRuntimeCudaLane, script: Script, text: str) -> None:
    script.failures.append(text)
    fill(lane.inputs)
    with pytest.raises(BatchFailedError, match=r"cuda:0/0: ONNX Runtime: ") as failed:
        lane.run(2)
    assert isinstance(failed.value.__cause__, RuntimeError)
    np.testing.assert_array_equal(lane.run(2), lane.inputs.decoder_cont[:2].reshape(2, 4, 1, 4))


def test_a_broken_device_is_told_by_the_text(lane: OnnxRuntimeCudaLane, script: Script) -> None:
    script.failures.append(ILLEGAL_ADDRESS)
    with pytest.raises(LaneLostError, match="CUDA failure 700") as lost:
        lane.run(1)
    assert lost.value.device_gone


def test_a_broken_device_is_told_by_the_device_where_the_text_does_not(
    lane: OnnxRuntimeCudaLane, script: Script
) -> None:
    script.failures.append("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0")
    script.break_device = True
    with pytest.raises(LaneLostError, match=r"CUBLAS failure 13.*cudaErrorIllegalAddress \(700\)") as lost:
        lane.run(1)
    assert lost.value.device_gone
    with pytest.raises(LaneLostError, match="cudaErrorIllegalAddress"):
        lane.check()


@pytest.mark.parametrize(("number", "gone"), [(700, True), (1, False)])
@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize"])
def test_a_call_of_cuda_that_fails_costs_the_lane(
    lane: OnnxRuntimeCudaLane, device: FakeCuda, function: str, number: int, gone: bool
) -> None:
    device.fail(function, number)
    with pytest.raises(LaneLostError, match=f"{function} on device 0") as lost:
        lane.run(1)
    assert lost.value.device_gone is gone


@pytest.mark.parametrize("bound", [True, False])
def test_a_session_is_kept_from_its_first_run_on_and_not_before(
    script: Script, model: Path, bound: bool, request: pytest.FixtureRequest
) -> None:
    if not bound:
        request.getfixturevalue("without_cuda_python")
    backend = OnnxRuntimeCudaBackend(model, CONTRACT, (1, 4))
    backend.make_lane(0).close()
    with pytest.raises(BackendUnavailableError):
        OnnxRuntimeCudaBackend(model, make_contract(targets=("cpu",), quantiles=(0.5,)), (1, 4)).make_lane(0)
    assert (script.kept, script.sessions) == (0, 0)
    lane = backend.make_lane(0)
    for count in (1, 4, 4):
        lane.run(count)
    assert script.kept == 1
    lane.close()


def test_an_error_that_is_kept_does_not_keep_the_session(lane: OnnxRuntimeCudaLane, script: Script) -> None:
    script.failures.append("INVALID_ARGUMENT")
    with pytest.raises(BatchFailedError) as kept:
        lane.run(1)
    lane.close()
    assert script.sessions == 0, kept.value


def test_a_device_that_was_reset_takes_new_lanes_once_the_old_are_closed(script: Script, model: Path) -> None:
    backend = OnnxRuntimeCudaBackend(model, CONTRACT, (1,))
    first, second = backend.make_lane(0), backend.make_lane(1)
    script.failures.append(ILLEGAL_ADDRESS)
    script.break_device = True
    with pytest.raises(LaneLostError):
        first.run(1)
    first.close()
    with pytest.raises(BackendUnavailableError, match="cudaErrorContextIsDestroyed"):
        backend.make_lane(0)
    second.close()
    lane = backend.make_lane(0)
    fill(lane.inputs)
    np.testing.assert_array_equal(lane.run(1), lane.inputs.decoder_cont.reshape(1, 4, 1, 4))
    lane.close()


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 719: unspecified launch failure ; GPU=0",
        "CUDA error 46: all CUDA-capable devices are busy",
        "cuda error: 214",
        "Non-zero status code returned: cudaErrorIllegalAddress",
        "CUDA error: device-side assert triggered",
        "NVML: GPU is lost",
        "device lost",
    ],
)
def test_texts_that_name_a_broken_device(text: str) -> None:
    assert mentions_broken_device(text)


@pytest.mark.parametrize(
    "text", ["", "INVALID_ARGUMENT : Got 700 rows", "CUDA failure 2: out of memory", "CUDA failure 7001", "line=719"]
)
def test_texts_that_do_not(text: str) -> None:
    assert not mentions_broken_device(text)


# ---------------------------------------------------------------- the real ones
@pytest.mark.gpu
@pytest.mark.parametrize("version", sorted(path.name for path in ENGINES.iterdir() if path.is_dir()))
def test_a_gpu_forecasts_as_the_cpu_does(version: str) -> None:
    engine = EngineRepository(ENGINES).load(version)
    counts = (1, 3, 8, 32)
    try:
        backend = OnnxRuntimeCudaBackend(engine.onnx, engine.contract, counts)
        lanes = [backend.make_lane(index) for index in range(2)]
    except BackendUnavailableError as exc:
        pytest.skip(str(exc))
    reference = OnnxRuntimeCpuBackend(engine.onnx, engine.contract, counts, 2).make_lane(0)
    for lane in lanes:
        for count in counts:
            fill(lane.inputs, count)
            for name, buffer in lane.inputs.view_first(count).items():
                reference.inputs.view_first(count)[name][:] = buffer
            expected = reference.run(count)
            error = np.linalg.norm(lane.run(count) - expected) / np.linalg.norm(expected)
            assert error < 1e-3
        lane.check()
        lane.close()
