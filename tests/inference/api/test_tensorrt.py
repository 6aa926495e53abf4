"""Tests `streamd/inference/api`.

An engine on TensorRT over the fake CUDA: plans in plain folders, what fits, and rows in order.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.contract import MEMORY_INPUT
from streamd.core.errors import BackendUnavailableError, InvalidTensorError, LaneLostError, RepositoryError
from streamd.engine import InferenceEngine
from streamd.inference import cuda
from streamd.inference.fake import make_fake_forecast
from streamd.inference.runner import Array, Arrays
from streamd.inference.tensorrt.library import load_tensorrt
from tests.support.contracts import make_contract
from tests.support.fake_cuda import FakeCuda, installed
from tests.support.fake_tensorrt_runtime import FakeTensorRt
from tests.support.made_versions import add_plan
from tests.support.memory_version import make_memory_contract, make_memory_version
from tests.support.small_networks import linear

CONTRACT = make_contract()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRt]:
    with installed(FakeCuda()) as device:
        fake = FakeTensorRt("10.9.0", device, CONTRACT)
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        load_tensorrt.cache_clear()
        yield fake
        load_tensorrt.cache_clear()
        device.broken.clear()
        cuda.revive(0)
        assert cuda.count_live() == {}, "all of the device was given back"


def make_plans(folder: Path, graph: Path | None = None, **changes: Any) -> Path:
    """A folder as `streamd engine build --plans-only` leaves it: fp32 and fp16, buckets 1 and 4."""
    folder.mkdir()
    plans = {}
    for precision in ("fp32", "fp16"):
        (folder / f"model_{precision}.engine").write_text(json.dumps({"profiles": [[1, 1, 1], [4, 4, 4]]}))
        plans[precision] = {
            "file": f"model_{precision}.engine",
            "gpu": cuda.get_device_name(0),
            "compute_capability": cuda.get_compute_capability(0),
            "tensorrt": "10.9.0",
            "buckets": [1, 4],
            "source_onnx": hashlib.sha256(graph.read_bytes()).hexdigest() if graph else "",
            **changes,
        }
    (folder / "plans.json").write_text(json.dumps({"command": [], "plans": plans}))
    return folder


def windows(count: int) -> Arrays:
    random = np.random.default_rng(count)
    return {
        name: np.zeros((count, *shape), np.int32)
        if name.endswith("_cat")
        else random.standard_normal((count, *shape)).astype(np.float32)
        for name, shape in CONTRACT.input_shapes.items()
    }


def expected(rows: Arrays) -> Array:
    shape = CONTRACT.output_shape
    return np.stack([make_fake_forecast(CONTRACT, row).reshape(shape) for row in rows["encoder_cont"]])


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_rows_run_on_the_plans_buckets_and_come_back_in_order(
    library: FakeTensorRt, tmp_path: Path, count: int
) -> None:
    with InferenceEngine.open(make_plans(tmp_path / "plans"), lanes=2) as engine:
        assert (engine.backend, engine.precision, engine.buckets) == ("tensorrt", "fp32", (1, 4))
        rows = windows(count)
        first = engine(rows)["predictions"]
        engine(windows(11))
        np.testing.assert_array_equal(first, expected(rows), err_msg="results are the caller's own")


def test_precisions_are_taken_by_name_and_only_trusted_ones_by_auto(library: FakeTensorRt, tmp_path: Path) -> None:
    folder = make_plans(tmp_path / "plans")
    with InferenceEngine.open(folder, precision="fp16", lanes=1) as engine:
        assert engine.precision == "fp16"
    record = json.loads((folder / "plans.json").read_text())
    record["validation"] = {"fp16": {"promotable": True}}
    (folder / "plans.json").write_text(json.dumps(record))
    with InferenceEngine.open(folder, lanes=1) as engine:
        assert engine.precision == "fp16"
    del record["plans"]["fp32"], record["validation"]
    (folder / "plans.json").write_text(json.dumps(record))
    with pytest.raises(BackendUnavailableError, match=r"fp16: .*never validated.*fp32: not built.*ask for one by"):
        InferenceEngine.open(folder, backend="tensorrt")


def test_a_plan_alone_runs_with_the_buckets_of_its_profiles(library: FakeTensorRt, tmp_path: Path) -> None:
    path = tmp_path / "model_bf16.engine"
    path.write_text(json.dumps({"profiles": [[2, 8, 40]]}))
    with InferenceEngine.open(path, lanes=1) as engine:
        assert (engine.precision, engine.buckets) == ("bf16", (2, 8, 32, 40))
        np.testing.assert_array_equal(engine(windows(3))["predictions"], expected(windows(3)))
    with pytest.raises(BackendUnavailableError, match=r"no profile takes a batch of \[64\], expected some of \(2, 8"):
        InferenceEngine.open(path, backend="tensorrt", buckets=[8, 64])
    with pytest.raises(BackendUnavailableError, match="plans alone, no graph"):
        InferenceEngine.open(path, backend="onnxruntime-cpu")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gpu": "NVIDIA B200"}, "built for NVIDIA B200"),
        ({"tensorrt": "11.0.0"}, "built by TensorRT 11.0.0, here is 10.9.0"),
        ({"source_onnx": "00"}, "built from another graph than"),
        ({"file": "gone.engine"}, "gone.engine is missing"),
    ],
)
def test_a_plan_that_does_not_fit_is_passed_over_for_the_graph(
    library: FakeTensorRt, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    graph = linear(tmp_path)
    plans = make_plans(tmp_path / "plans", graph, **changes)
    with InferenceEngine.open(graph, plans=plans, precision="fp32") as engine:
        assert engine.backend == "onnxruntime-cpu"
        assert told in engine.fallbacks[0]["reason"]


def test_a_graph_without_plans_and_a_folder_without_a_record_say_what_is_missing(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    graph = linear(tmp_path)
    with pytest.raises(BackendUnavailableError, match="a graph without plans: streamd engine build --onnx"):
        InferenceEngine.open(graph, backend="tensorrt")
    with pytest.raises(RepositoryError, match=r"has no plans.json"):
        InferenceEngine.open(graph, plans=tmp_path)
    broken = make_plans(tmp_path / "plans")
    (broken / "plans.json").write_text('{"plans": {"fp32": {}}}')
    with pytest.raises(RepositoryError, match=r"plans.json: Object missing required field"):
        InferenceEngine.open(broken)


def test_devices_that_are_not_there_are_named(library: FakeTensorRt, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"devices \[9\] do not exist"):
        InferenceEngine.open(make_plans(tmp_path / "plans"), backend="tensorrt", devices=[9])


def test_a_broken_device_ends_the_engine_and_the_next_one_brings_it_back(library: FakeTensorRt, tmp_path: Path) -> None:
    plans = make_plans(tmp_path / "plans")
    with InferenceEngine.open(plans, lanes=1) as engine:
        library.cuda.fail("cudaEventSynchronize", 700)
        with pytest.raises(LaneLostError, match="cudaErrorIllegalAddress"):
            engine(windows(1))
    with InferenceEngine.open(plans, lanes=1) as again:
        np.testing.assert_array_equal(again(windows(2))["predictions"], expected(windows(2)))


def test_without_room_for_all_lanes_none_is_left(library: FakeTensorRt, tmp_path: Path) -> None:
    library.cuda.fail("cudaStreamCreateWithPriority", 0, 0, 2)
    with pytest.raises(BackendUnavailableError, match="cudaErrorMemoryAllocation"):
        InferenceEngine.open(make_plans(tmp_path / "plans"), backend="tensorrt", lanes=3)


def test_a_version_that_remembers_needs_no_memory_of_its_callers(library: FakeTensorRt, tmp_path: Path) -> None:
    library.contract = make_memory_contract()
    version = make_memory_version(tmp_path, "a_20250101_000000", library.contract)
    gives = {"predictions": ["float32", [168, 3], "double memory_cont"]}
    add_plan(
        version,
        "fp32",
        json.dumps({"profiles": [[4, 4, 4]], "gives": gives}).encode(),
        gpu=cuda.get_device_name(0),
        compute_capability=cuda.get_compute_capability(0),
        tensorrt="10.9.0",
        buckets=[4],
    )
    rows = {name: np.ones((3, *shape), np.float32) for name, shape in library.contract.input_shapes.items()}
    rows = {name: each.astype(np.int32) if name.endswith("_cat") else each for name, each in rows.items()}
    with InferenceEngine.open(version, backend="tensorrt", lanes=1) as engine:
        np.testing.assert_array_equal(engine(rows)["predictions"], 2 * rows[MEMORY_INPUT])
        del rows[MEMORY_INPUT]
        assert np.isnan(engine(rows)["predictions"]).all(), "nothing of the call before is left"
        del rows["decoder_cont"]
        with pytest.raises(InvalidTensorError, match=r"missing \['decoder_cont'\]; expected"):
            engine(rows)
