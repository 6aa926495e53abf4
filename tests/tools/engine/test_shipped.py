"""Tests `streamd/tools/engine/precision` on the models that ship: each graph is close to float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.tools.engine.gate.scales import compute_least_scales
from streamd.tools.engine.gate.windows import ModelInputs, read_fleet_windows
from streamd.tools.engine.graph.onnx_graph import fold_constants
from streamd.tools.engine.graph.source import GraphSource, read_source
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT16
from streamd.tools.engine.precision.kept_nodes import choose_kept_nodes, convert_to_half
from streamd.tools.engine.precision.quantize import Quantizer, measure_movement
from streamd.tools.engine.precision.ranges import RangeFinder, open_session_with_outputs

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = sorted(path for path in (ROOT / "engines").iterdir() if path.name[0] != "." and path.is_dir())
TOLERANCE = 5e-3
LARGEST = 3e-2
"""A value in the middle between two of a coarse grain is in a ramp, in which an error grows."""


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda path: path.name)
def source(request: pytest.FixtureRequest) -> GraphSource:
    return read_source(None, request.param, None, manifest_needed=True)


@pytest.fixture(scope="module")
def windows(source: GraphSource) -> ModelInputs:
    """Real windows, two features of them in units as they are on real servers."""
    assert source.contract is not None
    found = read_fleet_windows(ROOT / "examples/fleet/servers.csv.gz", source.contract, 24)
    for name, unit in (("net_in", 1e9), ("disk_usage", 1.0), ("uptime", 1.0)):
        for part in found.keys() & {"encoder_cont", "memory_cont"}:
            found[part][..., source.contract.feature_index[name]] *= unit
    found["encoder_cont"][::3, 100:160] = np.nan
    return found


@pytest.fixture(scope="module")
def model(source: GraphSource) -> Any:
    """The folded graph, which no conversion changes: each returns a copy."""
    return fold_constants(source.model)


def forecasts(model: Any, windows: ModelInputs) -> Any:
    return open_session_with_outputs(model, ["predictions"]).run(["predictions"], windows)[0]


def relative_error(found: Any, wanted: Any, source: GraphSource, windows: ModelInputs) -> float:
    assert source.contract is not None
    least = np.maximum(compute_least_scales(windows, source.contract), 1e-30)[:, None, :, None]
    scale = np.maximum(np.abs(wanted).max(axis=(1, 3), keepdims=True), least)
    errors = np.abs(found - wanted) / scale
    assert float(errors.max()) <= LARGEST
    return float(np.quantile(errors, 0.999))


def test_float16_is_close_and_keeps_nodes_with_raw_units_in_float32(
    source: GraphSource, windows: ModelInputs, model: Any
) -> None:
    kept = choose_kept_nodes(model, None)
    assert {name for name in kept.names if name.startswith(("/scaler/", "/restorer/"))}
    half = forecasts(convert_to_half(model, kept), windows)
    wanted = forecasts(model, windows)
    assert np.isfinite(half).all()
    assert 1e-6 < relative_error(half, wanted, source, windows) <= TOLERANCE
    assert (np.diff(half, axis=-1) >= 0).all(), "quantiles stay in order"


def test_the_list_has_all_nodes_that_do_not_fit_half_precision(
    windows: ModelInputs, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: values[:8] for name, values in windows.items()}
    misfits = RangeFinder().find_misfits(model, some)
    assert misfits, "raw units do not fit"

    def find_again(finder: RangeFinder, *given: Any) -> dict[str, str]:
        assert finder.element == FLOAT16
        assert all(one is other for one, other in zip(given, (model, some, None), strict=True))
        return misfits

    monkeypatch.setattr(RangeFinder, "find_misfits", find_again)  # the search takes seconds
    unlisted = set(choose_kept_nodes(model, some).names) - set(choose_kept_nodes(model, None).names)
    assert unlisted == set()


def test_bfloat16_is_a_valid_graph_with_the_same_signature(model: Any) -> None:
    half = convert_to_half(model, choose_kept_nodes(model, None, BFLOAT16), BFLOAT16)
    assert [each.name for each in half.graph.output] == ["predictions"]
    assert half.graph.output[0].type.tensor_type.elem_type == 1
    assert any(tensor.data_type == BFLOAT16 for tensor in half.graph.initializer)


def test_int8_leaves_out_products_that_it_would_ruin() -> None:
    source = read_source(None, next(path for path in VERSIONS if "patch" in path.name), None, manifest_needed=True)
    assert source.contract is not None
    windows = read_fleet_windows(ROOT / "examples/fleet/servers.csv.gz", source.contract, 8)  # each runs 27 times
    model = fold_constants(source.model)
    quantizer = Quantizer("minmax")
    quantized = quantizer.quantize(model, windows, choose_kept_nodes(model, None))
    assert measure_movement([forecasts(quantized, windows)], [forecasts(model, windows)]) < 0.06
    assert "/quantiles/anchors/MatMul" in quantizer.not_quantized, (
        "it averages over stretches of the window, by a map of ones"
    )
