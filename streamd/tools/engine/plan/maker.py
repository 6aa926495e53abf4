"""One graph into plans of several precisions: which graphs each is built from, and in which way TensorRT takes them."""

from __future__ import annotations

from dataclasses import dataclass

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature, extract_signature
from streamd.tools.engine.plan.attention import join_attention
from streamd.tools.engine.plan.builder import BuiltPlan, PlanBuilder, PlanGraph
from streamd.tools.engine.plan.stages import Stage, cut_into_stages
from streamd.tools.engine.precision.graphs import GraphMaker
from streamd.tools.engine.precision.graphs import PrecisionOptions as PrecisionOptions
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT16, HALF_SCALES_OPSET
from streamd.tools.engine.precision.kept_nodes import KeptNodes, convert_to_half, raise_opset

HALVES = {"fp16": FLOAT16, "bf16": BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class PreparedPlan:
    """What a plan is to be built from: one graph, or one for each of its stages, in the order in which they run.

    `kept` names the nodes that run in float32 and no others: those of a strongly typed graph that stay in it, those of
    stages without flags, and those that are pinned. `typed` says whether the graph itself carries lower precision.
    """

    precision: str
    graphs: tuple[PlanGraph, ...]
    kept: KeptNodes
    typed: bool
    whole: OnnxModel | None = None
    """The graph before it was cut into stages, where that runs in this precision as it is."""

    def made(self, plan: BuiltPlan, alternatives: int = 1) -> MadePlan:
        """The same with its plan."""
        return MadePlan(**vars(self), plan=plan, alternatives=alternatives)


@dataclass(frozen=True, kw_only=True)
class MadePlan(PreparedPlan):
    """A plan with what it was made from."""

    plan: BuiltPlan
    alternatives: int = 1
    """How many plans the file holds, each for some of the batch sizes."""


class PlanMaker:
    """Makes plans of one graph."""

    def __init__(self, builder: PlanBuilder, model: OnnxModel, signature: Signature, options: PrecisionOptions) -> None:
        self.builder, self.library = builder, builder.library
        written_out = not self.library.strongly_typed
        self.graphs = GraphMaker(model, options, builder.progress, builder.note, norms_written_out=written_out)
        self.model, self.signature, self.options = self.graphs.model, signature, options

    def make(self, precision: str) -> MadePlan:
        """Build the plan of a precision; raises `BuildError`."""
        prepared = self.prepare(precision)
        return prepared.made(self.builder.build_stages(prepared.graphs, precision))

    def prepare(self, precision: str) -> PreparedPlan:
        """Make the graphs that a plan is built from; raises `BuildError`.

        Where the graph alone says the types, or all is float32, there is one.
        """
        typed = self._typed(precision)
        strong = typed and self.library.strongly_typed
        if precision == "fp32":
            graph = PlanGraph(self.model, self.signature, strong)
            return PreparedPlan(precision=precision, graphs=(graph,), kept=KeptNodes(), typed=typed)
        if precision == "bf16" and not self.library.has_bfloat16:
            raise BuildError(f"bf16: TensorRT {self.library.version} has no bfloat16; expected 9 or later, or fp16")
        element = HALVES.get(precision, FLOAT16)
        model, kept = self.model, self.graphs.keep(element)
        if precision == "int8":
            model, kept = self.graphs.quantized(kept)
        if strong:
            if precision == "int8":
                # Only from this opset on do scales in half precision let the quantizers fuse with half products.
                model = raise_opset(model, max(HALF_SCALES_OPSET, _opset(model)))
            graph = PlanGraph(convert_to_half(model, kept, element), self.signature, strongly_typed=True)
            return PreparedPlan(precision=precision, graphs=(graph,), kept=kept, typed=typed)
        hinted = typed and precision in HALVES
        flags = (precision.upper(),) if precision in HALVES else ("INT8", "FP16")
        graphs, kept = self._flagged(model, kept, flags, element if hinted else None)
        whole = model if precision == "int8" and len(graphs) > 1 else None
        return PreparedPlan(precision=precision, graphs=graphs, kept=kept, typed=typed, whole=whole)

    def _flagged(
        self, model: OnnxModel, kept: KeptNodes, flags: tuple[str, ...], element: int | None
    ) -> tuple[tuple[PlanGraph, ...], KeptNodes]:
        """Stages in float32 about a core with flags, which carries the types of `element` too where that is given.

        Of the core only what does not fit is pinned: 8.6 sums norms in float32 by itself, and with them pinned it may
        run the whole core in float32.
        """
        stages = cut_into_stages(join_attention(model))
        core = next(stage.model for stage in stages if stage.is_core)
        pinned = set(kept.misfits).intersection(node.name for node in core.graph.node)
        graphs = []
        for stage in stages:
            if not stage.is_core:
                graphs.append(PlanGraph(stage.model, self._signature(stage.model, stages), strongly_typed=False))
                continue
            taken = core if element is None else convert_to_half(core, kept, element)
            names = tuple(node.name for node in core.graph.node if node.name in pinned)
            graphs.append(PlanGraph(taken, self._signature(core, stages), False, flags, names))
        low = {node.name for node in core.graph.node} - pinned
        reasons = {}
        for node in model.graph.node:
            if node.name not in low:
                reasons[node.name] = kept.reasons.get(node.name, "computed again for a stage that meets raw units")
        return tuple(graphs), KeptNodes(reasons, kept.not_quantized)

    def _signature(self, model: OnnxModel, stages: tuple[Stage, ...]) -> Signature:
        return self.signature if len(stages) == 1 else extract_signature(model, "a stage of the graph")

    def _typed(self, precision: str) -> bool:
        """Whether the graph itself carries lower precision.

        To 8.6 such a graph is a hint only: it gets the float32 graph, cut into stages, and flags.
        """
        if self.options.typed is not None:
            return self.options.typed
        return self.library.strongly_typed or precision not in HALVES


def _opset(model: OnnxModel) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
