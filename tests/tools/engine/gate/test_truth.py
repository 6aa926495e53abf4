"""Tests `streamd/tools/engine/gate/truth.py`: the values after each window, and windows that are made hard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.tools.engine.gate.truth import (
    RATE_FACTOR,
    cut_with_truth,
    harden_windows,
    make_random_windows,
    read_judged_windows,
)
from streamd.tools.engine.graph.onnx_graph import GraphTensorSpec, Signature
from streamd.tools.fleets.fleet import RecordedFleet

CONTRACT = ModelContract(
    ("load", "free", "net"), ("net", "load"), (0.5,), context_length=12, horizon=2, step_seconds=300,
    units={"load": "1", "net": "bytes/s"},
)  # fmt: skip


def fleet(steps: int = 40, servers: int = 3) -> RecordedFleet:
    """Make a fleet: `load` is the step's number, 1000 more on each server; `net` is flat; there is no `free`."""
    load = np.arange(steps, dtype=np.float32) + 1000 * np.arange(servers, dtype=np.float32)[:, None]
    series = np.stack([load, np.ones_like(load)], axis=2)
    return RecordedFleet(tuple("abc"[:servers]), ("load", "net"), 500, series)


def test_the_truth_is_the_values_after_each_window() -> None:
    judged = cut_with_truth(fleet(), CONTRACT, 1000)
    assert len(judged) == 3 * (40 - 12 - 2 + 1)
    past = judged.windows["encoder_cont"]
    assert judged.truth is not None
    assert judged.scale is not None
    np.testing.assert_array_equal(judged.truth[:, :, 1], past[:, -1:, 0] + [[1, 2]])
    assert np.isnan(past[..., 1]).all(), "a feature that the fleet does not have"
    np.testing.assert_allclose(judged.windows["decoder_cont"][5], compute_known_future(500 + 5 + 11, 2, 300))
    np.testing.assert_allclose(judged.scale[:, 1], np.arange(40).std(), rtol=1e-5)
    assert np.isnan(judged.scale[:, 0]).all(), "a flat series has no deviation"


def test_fewer_windows_are_spread_over_servers_and_time() -> None:
    starts = cut_with_truth(fleet(), CONTRACT, 4).windows["encoder_cont"][:, 0, 0]
    assert starts[0] == 0
    assert starts[-1] == 2000 + 26
    assert len({int(each) // 1000 for each in starts}) == 3


def test_a_fleet_that_is_too_short_is_refused_with_the_length_it_needs() -> None:
    with pytest.raises(ConfigError, match="13 steps; expected 14 or more"):
        cut_with_truth(fleet(steps=13), CONTRACT, 4)


def test_three_of_four_windows_are_hard_and_their_truth_follows() -> None:
    before, judged = (cut_with_truth(fleet(), CONTRACT, 8) for _ in range(2))
    harden_windows(judged, CONTRACT)
    old, new = before.windows["encoder_cont"], judged.windows["encoder_cont"]
    np.testing.assert_array_equal(old[::4], new[::4])
    gone = np.isnan(new[1]).all(axis=1)
    assert 2 <= gone.sum() < 12
    np.testing.assert_array_equal(new[1][~gone], old[1][~gone])
    assert before.truth is not None
    assert judged.truth is not None
    assert before.scale is not None
    assert judged.scale is not None
    np.testing.assert_array_equal(new[3][:, 2], old[3][:, 2] * RATE_FACTOR)
    np.testing.assert_array_equal(new[3][:, 0], old[3][:, 0])
    np.testing.assert_array_equal(judged.truth[3], before.truth[3] * [RATE_FACTOR, 1])
    np.testing.assert_array_equal(judged.scale[3], before.scale[3] * [RATE_FACTOR, 1])
    np.testing.assert_array_equal(judged.truth[:3], before.truth[:3])


def test_a_hard_window_has_a_memory_as_hard() -> None:
    contract = replace(CONTRACT, memory_length=3)
    before, judged = (cut_with_truth(fleet(), contract, 8) for _ in range(2))
    harden_windows(judged, contract)
    old, new = before.windows["memory_cont"], judged.windows["memory_cont"]
    np.testing.assert_array_equal(new[::4], old[::4])
    assert np.isnan(new[5]).sum() > np.isnan(old[5]).sum(), "some elements are missing"
    lost = np.isnan(judged.windows["encoder_cont"][6]).all(axis=0)
    assert np.isnan(new[6][:, lost]).all()
    np.testing.assert_array_equal(new[6][:, ~lost], old[6][:, ~lost])
    assert np.isfinite(old[7][:, 2]).any()
    np.testing.assert_array_equal(new[7], old[7] * [1, 1, RATE_FACTOR])


def test_whole_features_are_missing_in_some_windows() -> None:
    wide = ModelContract(tuple("abcdef"), ("a",), (0.5,), context_length=6, horizon=2, step_seconds=300)
    series = np.ones((1, 20, 6), np.float32)
    judged = cut_with_truth(RecordedFleet(("s",), tuple("abcdef"), 0, series), wide, 4)
    harden_windows(judged, wide)
    missing = np.isnan(judged.windows["encoder_cont"][2])
    assert missing.all(axis=0).sum() == missing.any(axis=0).sum() == 2


def test_random_inputs_have_the_types_of_the_graph() -> None:
    specs = (
        GraphTensorSpec("pixels", "float32", (3, 4)),
        GraphTensorSpec("ids", "int64", (5,)),
        GraphTensorSpec("on", "bool", (2,)),
    )
    made = read_judged_windows(None, Signature(specs, ()), None, 6)
    assert (len(made), made.truth) == (6, None)
    found = {name: (values.shape, str(values.dtype)) for name, values in made.windows.items()}
    assert found == {"pixels": ((6, 3, 4), "float32"), "ids": ((6, 5), "int64"), "on": ((6, 2), "bool")}
    assert make_random_windows(Signature(specs, ()), 6)["pixels"].tolist() == made.windows["pixels"].tolist()


def test_files_that_give_no_windows_to_judge_on_are_refused(tmp_path: Path) -> None:
    signature = Signature((GraphTensorSpec("x", "float32", (2,)),), ())
    with pytest.raises(ConfigError, match="no such file"):
        read_judged_windows(tmp_path / "none.csv", signature, CONTRACT, 1)
    (tmp_path / "fleet.csv").write_text("server,time,load\na,300,1\n")
    with pytest.raises(ConfigError, match="needs a manifest"):
        read_judged_windows(tmp_path / "fleet.csv", signature, None, 1)
    with pytest.raises(ConfigError, match="1 steps; expected 14"):
        read_judged_windows(tmp_path / "fleet.csv", signature, CONTRACT, 1)
    arrays: Any = {"x": np.zeros((5, 2), np.float32)}
    np.savez(tmp_path / "windows.npz", **arrays)
    assert len(read_judged_windows(tmp_path / "windows.npz", signature, None, 3)) == 3
