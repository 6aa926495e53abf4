"""Tests `streamd/tools/engine/gate/windows.py`: read from arrays, and cut from a fleet as the daemon does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.tools.engine.gate.windows import read_fleet_windows, read_windows
from streamd.tools.engine.graph.onnx_graph import GraphTensorSpec, Signature

SIGNATURE = Signature((GraphTensorSpec("x", "float32", (2, 3)), GraphTensorSpec("n", "int32", (2,))), ())
CONTRACT = ModelContract(("load", "free", "idle"), ("load",), (0.5,), context_length=4, horizon=2, step_seconds=300)


def arrays(count: int = 5) -> dict[str, Any]:
    return {"x": np.ones((count, 2, 3), np.float32), "n": np.zeros((count, 2), np.int32)}


def saved(tmp_path: Path, given: dict[str, Any]) -> Path:
    np.savez(tmp_path / "windows.npz", **given)
    return tmp_path / "windows.npz"


def test_arrays_are_read_up_to_the_count(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays() | {"other": np.zeros(1)})
    for count, expected in ((3, 3), (100, 5)):
        windows = read_windows(path, SIGNATURE, None, count)
        assert {name: len(values) for name, values in windows.items()} == {"x": expected, "n": expected}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "no array 'x'; it has"),
        ({"x": np.ones((5, 2, 4), np.float32)}, r"'x' is \(5, 2, 4\) float32; expected \(windows, 2, 3\) float32"),
        ({"n": np.zeros((5, 2), np.int64)}, r"'n' is \(5, 2\) int64; expected \(windows, 2\) int32"),
        ({"n": np.zeros((4, 2), np.int32)}, "as many windows of each input"),
        ({"x": np.ones((0, 2, 3), np.float32)}, r"'x' is \(0, 2, 3\)"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {name: values for name, values in (arrays() | change).items() if values is not None}
    with pytest.raises(ConfigError, match=message):
        read_windows(saved(tmp_path, given), SIGNATURE, None, 10)


def fleet(tmp_path: Path, steps: int = 6) -> Path:
    """Write a fleet of two servers: `load` is the step's number, 100 more on the second; `idle` has a gap."""
    lines = ["server,time,load,idle"]
    for step in range(steps):
        for number, server in enumerate("ab"):
            idle = "" if step == 2 else str(step / 10)
            lines.append(f"{server},{300 * (1000 + step)},{step + 100 * number},{idle}")
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_windows_of_a_fleet_are_what_the_daemon_would_run(tmp_path: Path) -> None:
    windows = read_fleet_windows(fleet(tmp_path), CONTRACT, 100)
    # Each server has three windows of four steps.
    np.testing.assert_array_equal(windows["encoder_cont"][:, 0, 0], [0, 1, 2, 100, 101, 102])
    np.testing.assert_array_equal(windows["encoder_cont"][1, :, 0], [1, 2, 3, 4])
    assert np.isnan(windows["encoder_cont"][..., 1]).all(), "a feature that the fleet does not have"
    np.testing.assert_array_equal(np.isnan(windows["encoder_cont"][1, :, 2]), [False, True, False, False])
    np.testing.assert_array_equal(windows["decoder_cont"][1], compute_known_future(1004, 2, 300))
    assert {name: (values.shape, str(values.dtype)) for name, values in windows.items()} == {
        "encoder_cont": ((6, 4, 3), "float32"),
        "encoder_cat": ((6, 4, 2), "int32"),
        "decoder_cont": ((6, 2, 4), "float32"),
        "decoder_cat": ((6, 2, 2), "int32"),
    }


def test_windows_have_the_memory_that_the_daemon_would_have(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.support.memory_version import compute_naive_memory

    contract = replace(CONTRACT, context_length=13, memory_length=168)
    windows = read_fleet_windows(fleet(tmp_path, steps=60), contract, 1000)
    assert windows["memory_cont"].shape == (2 * 48, 168, 3)
    assert windows["memory_cont"].dtype == np.float32
    for index in (0, 7, 47, 48 + 30):
        server, start = divmod(index, 48)
        rows = {1000 + step: (step + 100 * server, None, None if step == 2 else step / 10) for step in range(60)}
        end = 1000 + start + 13
        seen = {step: values for step, values in rows.items() if step < end}
        expected = compute_naive_memory(seen, end, 12, 3)
        np.testing.assert_allclose(windows["memory_cont"][index], expected, rtol=1e-6)
        assert np.isfinite(expected[:, [0, 2]]).any(axis=0).all()


def test_an_optional_input_that_is_not_in_the_arrays_has_its_default(tmp_path: Path) -> None:
    memory = GraphTensorSpec("memory", "float32", (2,), np.full((1, 2), 7, np.float32))
    signature = Signature((*SIGNATURE.inputs, memory), ())
    windows = read_windows(saved(tmp_path, arrays()), signature, None, 3)
    np.testing.assert_array_equal(windows["memory"], np.full((3, 2), 7, np.float32))
    given = {"memory": np.arange(10, dtype=np.float32).reshape(5, 2)}
    windows = read_windows(saved(tmp_path, arrays() | given), signature, None, 3)
    np.testing.assert_array_equal(windows["memory"], given["memory"][:3])
    with pytest.raises(ConfigError, match=r"'memory' is \(5, 3\) float32; expected \(windows, 2\)"):
        read_windows(saved(tmp_path, arrays() | {"memory": np.zeros((5, 3), np.float32)}), signature, None, 3)


def test_fewer_windows_are_spread_over_all(tmp_path: Path) -> None:
    windows = read_windows(fleet(tmp_path), SIGNATURE, CONTRACT, 3)
    np.testing.assert_array_equal(windows["encoder_cont"][:, 0, 0], [0, 2, 102])


def test_a_file_that_gives_no_windows_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_windows(tmp_path / "none.npz", SIGNATURE, None, 1)
    with pytest.raises(ConfigError, match="3 steps; expected 4 or more"):
        read_fleet_windows(fleet(tmp_path, steps=3), CONTRACT, 1)
    with pytest.raises(ConfigError, match="a fleet's file needs a manifest"):
        read_windows(fleet(tmp_path), SIGNATURE, None, 1)
    (tmp_path / "odd.csv").write_text("server,time,nothing\na,300,1\n")
    with pytest.raises(ConfigError, match="none of the fleet's columns"):
        read_fleet_windows(tmp_path / "odd.csv", CONTRACT, 1)
