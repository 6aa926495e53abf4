"""Plans and sources to write versions from, without a graph or a GPU: the writer reads neither."""

from pathlib import Path
from typing import Any

import msgspec

from streamd.repository.versions import load_version
from streamd.tools.engine.graph.onnx_graph import Signature
from streamd.tools.engine.graph.source import GraphSource
from streamd.tools.engine.plan.builder import BuildSettings, BuiltPlan, PlanGraph, Profile
from streamd.tools.engine.plan.maker import MadePlan
from streamd.tools.engine.precision.kept_nodes import KeptNodes

SETTINGS = BuildSettings(profiles=(Profile.static(1), Profile.static(8)))
WHERE = {"gpu": "NVIDIA Fake", "compute_capability": "9.0", "tensorrt": "8.6.1"}


def make_plan(precision: str = "fp16", content: bytes = b"a plan", stages: int = 1) -> MadePlan:
    plan = BuiltPlan(content=content, seconds=12.34, layers=7, pinned_layers=2, warnings=("one", "one"))
    pinned = ("/scaler/Div",)
    graph = PlanGraph(
        model=FakeGraph(), signature=Signature((), ()), strongly_typed=False, flags=("FP16",), pinned=pinned
    )
    kept = KeptNodes({"/scaler/Div": "pinned: meets raw units"})
    return MadePlan(precision=precision, plan=plan, graphs=(graph,) * stages, kept=kept, typed=True)


def read_made_source(version: Path) -> GraphSource:
    checked = load_version(version)
    manifest: Any = msgspec.json.decode((version / "config.json").read_bytes())
    return GraphSource(
        onnx=checked.onnx,
        model=FakeGraph(),
        signature=Signature((), ()),
        folder=version,
        manifest=manifest,
        contract=checked.contract,
    )


class FakeGraph:
    """Stands for a model."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return b"a graph"
