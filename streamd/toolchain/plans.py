"""One graph into plans of several precisions: which graph each is built from, and in which way TensorRT takes it."""

from __future__ import annotations

from dataclasses import dataclass

from streamd.core.errors import BuildError
from streamd.toolchain.builder import BuiltPlan, PlanBuilder, PlanGraph
from streamd.toolchain.graphs import Model, Signature
from streamd.toolchain.half import BFLOAT16, FLOAT16, HALF_SCALES_OPSET
from streamd.toolchain.making import GraphMaker
from streamd.toolchain.making import PrecisionOptions as PrecisionOptions
from streamd.toolchain.precision import Kept, raise_opset, to_half
from streamd.toolchain.ranks import without_reshapes

HALVES = {"fp16": FLOAT16, "bf16": BFLOAT16}


@dataclass(frozen=True)
class MadePlan:
    """A plan with what it was made from."""

    precision: str
    plan: BuiltPlan
    graph: PlanGraph
    kept: Kept
    typed: bool


class PlanMaker:
    """Makes plans of one graph."""

    def __init__(self, builder: PlanBuilder, model: Model, signature: Signature, options: PrecisionOptions) -> None:
        self.builder, self.library = builder, builder.library
        self.graphs = GraphMaker(model, options, builder.progress, builder.note)
        self.model, self.signature, self.options = self.graphs.model, signature, options

    def make(self, precision: str) -> MadePlan:
        """Build the plan of a precision; raises `BuildError`."""
        typed = self._typed(precision)
        graph, kept = self.graph(precision, typed=typed)
        return MadePlan(precision, self.builder.build(graph, precision), graph, kept, typed)

    def graph(self, precision: str, *, typed: bool) -> tuple[PlanGraph, Kept]:
        """What a plan is built from, and the nodes it keeps in float32."""
        if precision == "fp32":
            return self._plan_graph(self.model, typed), Kept()
        if precision == "bf16" and not self.library.has_bfloat16:
            raise BuildError(f"bf16: TensorRT {self.library.version} has no bfloat16; expected 9 or later, or fp16")
        if precision in HALVES:
            element = HALVES[precision]
            kept = self.graphs.keep(element)
            model = to_half(self.model, kept, element) if typed else self.model
            return self._plan_graph(model, typed, (precision.upper(),), kept), kept
        model, kept = self.graphs.quantized(self.graphs.keep(FLOAT16))
        if typed and self.library.strongly_typed:
            # Only from this opset on do scales in half precision let the quantizers fuse with half products.
            model = to_half(raise_opset(model, max(HALF_SCALES_OPSET, _opset(model))), kept)
        return self._plan_graph(model, typed, ("INT8", "FP16"), kept), kept

    def _typed(self, precision: str) -> bool:
        """Whether the graph itself carries half precision.

        To 8.6 such a graph is a hint only: it gets the float32 graph, flags and pins.
        """
        if self.options.typed is not None:
            return self.options.typed
        return self.library.strongly_typed or precision not in HALVES

    def _plan_graph(
        self, model: Model, typed: bool, flags: tuple[str, ...] = (), kept: Kept | None = None
    ) -> PlanGraph:
        if typed and self.library.strongly_typed:
            return PlanGraph(model, self.signature, strongly_typed=True)
        names = tuple(kept.names) if kept else ()
        return PlanGraph(without_reshapes(model, names) if names else model, self.signature, False, flags, names)


def _opset(model: Model) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
