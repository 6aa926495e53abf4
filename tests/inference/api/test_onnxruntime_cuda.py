"""Tests `streamd/inference/api`.

An engine on ONNX Runtime's CUDA, whose package is stood in for: sessions as the lanes' own, never closed.
"""

import ctypes
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.engine import InferenceEngine
from streamd.inference.api.backends import OPENERS, OpenOptions
from streamd.inference.api.sources import find_source
from streamd.inference.leaked import leak_deliberately
from tests.support.fake_onnxruntime_gpu import FakeOnnxRuntimeGpu, Script
from tests.support.small_networks import WEIGHTS, linear

CUDA = "onnxruntime-cuda"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script()
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntimeGpu(str(tmp_path), script))
    monkeypatch.setattr("streamd.inference.onnxruntime.session.leak_deliberately", script.keep)
    yield script
    assert script.sessions == 0


def test_lanes_of_a_device_share_a_session_in_true_float32(script: Script, tmp_path: Path) -> None:
    rows = np.arange(28, dtype=np.float32).reshape(7, 4)
    with InferenceEngine.open(linear(tmp_path), backend=CUDA, devices=[0, 1], buckets=[2], lanes=4) as engine:
        np.testing.assert_array_equal(engine(rows)["y"], rows @ WEIGHTS)
        assert script.sessions == 2
    assert [(each["device_id"], each["use_tf32"]) for each in script.options] == [("0", "0"), ("1", "0")]
    assert {each["arena_extend_strategy"] for each in script.options} == {"kSameAsRequested"}


def test_a_session_outlives_its_engine_since_closing_it_may_end_the_process(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.inference.onnxruntime.session.leak_deliberately", leak_deliberately)
    opened = OPENERS[CUDA](find_source(linear(tmp_path)), OpenOptions(lanes=1))
    (runner,) = opened.runners
    session = weakref.ref(runner._session._session)  # type: ignore[attr-defined]
    feeds = {spec.name: np.zeros(spec.make_batch_shape(2), spec.dtype) for spec in runner.inputs}
    assert runner.run(feeds)["y"].shape[0] == 2
    runner.close()
    assert session() is not None
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(session()))
    assert session() is None


def test_what_a_run_s_error_means_is_told_as_for_lanes(script: Script, tmp_path: Path) -> None:
    script.failures.extend(["INVALID_ARGUMENT", "CUDA failure 2: out of memory", "CUDA failure 700: illegal ; GPU=0"])
    with InferenceEngine.open(linear(tmp_path), backend=CUDA, lanes=1) as engine:
        row = np.zeros((1, 4))
        with pytest.raises(BatchFailedError, match=r"runner cuda:0/0: ONNX Runtime: INVALID_ARGUMENT$"):
            engine(row)
        with pytest.raises(BatchFailedError, match="out of memory; open fewer lanes or smaller buckets"):
            engine(row)
        with pytest.raises(LaneLostError, match="CUDA failure 700") as lost:
            engine(row)
        assert lost.value.device_gone


def test_a_session_that_is_refused_or_left_on_the_cpu_is_told(script: Script, tmp_path: Path) -> None:
    script.refusals.append("CUDA failure 101: invalid device ordinal")
    with pytest.raises(BackendUnavailableError, match="cannot load it on cuda:3: CUDA failure 101"):
        InferenceEngine.open(linear(tmp_path), backend=CUDA, devices=[3])
    script.providers = ("CPUExecutionProvider",)
    with pytest.raises(BackendUnavailableError, match="left CUDA out"):
        InferenceEngine.open(linear(tmp_path), backend=CUDA)
