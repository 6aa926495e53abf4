"""Tests `streamd/inference/api/unknown_targets.py`: a version gives no number of a target that its window lacks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamd.engine import InferenceEngine
from streamd.inference.api.unknown_targets import hide_unknown_targets
from streamd.inference.runner import Arrays
from tests.support.contracts import make_contract
from tests.support.small_version import make_version

CPU = "onnxruntime-cpu"


def make_feeds(count: int) -> Arrays:
    """Make windows of `cpu`, `net` and `idle`, of which every second one has no value of `cpu`."""
    windows = np.random.default_rng(3).random((count, 24, 3), np.float32)
    windows[::2, :, 0] = np.nan
    return {
        "encoder_cont": windows,
        "encoder_cat": np.zeros((count, 24, 2), np.int32),
        "decoder_cont": np.zeros((count, 4, 4), np.float32),
        "decoder_cat": np.zeros((count, 4, 2), np.int32),
    }


def test_a_version_hides_what_its_graph_makes_of_an_unknown_target(tmp_path: Path) -> None:
    version = make_version(tmp_path)
    feeds = make_feeds(70)
    with InferenceEngine.open(version / "model.onnx", backend=CPU) as graph:
        expected = graph(feeds)["predictions"]
        assert np.isfinite(expected).all(), "a graph alone does not say what its targets are"
    expected[::2, :, 1] = np.nan  # the targets are `net` and `cpu`
    with InferenceEngine.open(version, backend=CPU) as engine:
        np.testing.assert_allclose(engine(feeds)["predictions"], expected, rtol=1e-4)
        one = engine({name: values[0] for name, values in feeds.items()})["predictions"]
        np.testing.assert_allclose(one, expected[0], rtol=1e-4)


@pytest.mark.parametrize("target", ["mem", "cpu"])
def test_one_target_has_no_axis(target: str) -> None:
    contract = replace(make_contract(), targets=(target,))
    windows = np.ones((2, contract.context_length, 3), np.float32)
    windows[1, :, contract.feature_index["mem"]] = np.nan
    outputs = {"predictions": np.zeros((2, contract.horizon, 3), np.float32)}
    hide_unknown_targets(contract, {"encoder_cont": windows}, outputs)
    assert np.isfinite(outputs["predictions"][0]).all()
    assert np.isnan(outputs["predictions"][1]).all() == (target == "mem")
    assert np.isnan(outputs["predictions"][1]).any() == (target == "mem")
