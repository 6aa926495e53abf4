"""Tests `streamd/tools/engine/plan/maker.py` with a real builder and parser of TensorRT 11, which need no GPU.

They are in no package that the project needs: `make tensorrt` fetches them and runs this. It shows what the compiler of
a current TensorRT takes; no plan is run.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.inference.tensorrt.library import TensorRtLibrary
from streamd.tools.engine.gate.windows import read_fleet_windows
from streamd.tools.engine.graph.onnx_graph import extract_signature
from streamd.tools.engine.graph.optional_inputs import add_default_input, require_inputs
from streamd.tools.engine.graph.source import read_source
from streamd.tools.engine.plan.builder import BuildSettings, PlanBuilder, Profile
from streamd.tools.engine.plan.library import TensorRt
from streamd.tools.engine.plan.maker import PlanMaker
from streamd.tools.engine.precision.graphs import PrecisionOptions
from tests.support.graph_readers import INT32, model, node, value

ROOT = Path(__file__).resolve().parents[4]
VERSIONS = sorted(path for path in (ROOT / "engines").iterdir() if path.name[0] != "." and path.is_dir())
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
WINDOWS = 16
SETTINGS = BuildSettings(profiles=(Profile.static(1), Profile.static(8)))

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def library() -> TensorRt:
    """Return the library of the folder that `make tensorrt` prepares."""
    folder = os.environ.get("STREAMD_TRT11")
    if not folder:
        pytest.skip("STREAMD_TRT11 names no folder with a TensorRT 11; `make tensorrt` prepares one")
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        bindings = importlib.import_module("tensorrt_bindings")
    except ImportError as exc:
        pytest.fail(f"STREAMD_TRT11={folder}: {exc}; prepare it with `make tensorrt`, for this Python")
    finally:
        del sys.path[0]
    return TensorRt(TensorRtLibrary(bindings))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda path: path.name)
def maker(request: pytest.FixtureRequest, library: TensorRt) -> PlanMaker:
    """Return the maker of plans of a version that ships, with a few real windows."""
    source = read_source(None, request.param, None, manifest_needed=True)
    assert source.contract is not None
    windows = read_fleet_windows(ROOT / "examples/fleet/servers.csv.gz", source.contract, WINDOWS)
    options = PrecisionOptions(windows=windows, calibration="minmax", largest_move=0.05)
    return PlanMaker(PlanBuilder(library, SETTINGS), source.model, source.signature, options)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_network_that_ships_builds_in_every_precision(maker: PlanMaker, precision: str) -> None:
    made = maker.make_plan(precision)
    assert len(memoryview(made.plan.content).cast("B")) > 100_000
    (graph,) = made.graphs
    assert list_plan_inputs(maker.library, graph.model) == [spec.name for spec in maker.signature.inputs]


def list_plan_inputs(library: TensorRt, graph: Any) -> list[str]:
    """Return the inputs that a plan of this graph would have, as the parser sees them."""
    builder = library.module.Builder(library.installed.logger)
    network = builder.create_network(library.make_network_flags(strongly_typed=True))
    parser = library.module.OnnxParser(network, library.installed.logger)
    assert parser.parse(graph.SerializeToString())
    return [network.get_input(index).name for index in range(network.num_inputs)]


def make_plan(library: TensorRt, graph: Any) -> Any:
    builder = PlanBuilder(library, SETTINGS)
    return PlanMaker(builder, graph, extract_signature(graph, "small"), PrecisionOptions()).make_plan("fp32")


def test_an_optional_input_would_be_a_constant_and_is_made_an_ordinary_one(library: TensorRt) -> None:
    nodes = [node("Add", "x memory", "y", "/Add")]
    inputs = [value("x", ["batch", 4]), value("ids", ["batch", 1], INT32), value("memory", ["batch", 4])]
    plain = model([*nodes, node("Identity", "ids", "same", "/Id")], inputs, [value("y", ["batch", 4])])
    graph = add_default_input(plain, "memory", np.zeros((1, 4), np.float32), like="ids")
    assert list_plan_inputs(library, graph) == ["x", "ids"]
    required = require_inputs(graph, ["memory"])
    assert list_plan_inputs(library, required) == ["x", "ids", "memory"]
    assert make_plan(library, required).plan.layers
