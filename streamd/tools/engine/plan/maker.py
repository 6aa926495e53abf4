"""Makes the plans of a graph, one for each precision: chooses the graphs of a plan and how TensorRT takes them.

The graphs of lower precision come from `precision`; this module does not touch files or processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.elus import FIRST_VERSION, write_out_elus
from streamd.tools.engine.graph.norms import write_out_norms
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature, extract_signature
from streamd.tools.engine.plan.attention import join_attention
from streamd.tools.engine.plan.builder import BuiltPlan, PlanBuilder, PlanGraph
from streamd.tools.engine.plan.library import TensorRt
from streamd.tools.engine.plan.stages import Stage, cut_into_stages
from streamd.tools.engine.precision.graphs import GraphMaker, PrecisionOptions
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT16, HALF_SCALES_OPSET
from streamd.tools.engine.precision.kept_nodes import KeptNodes, convert_to_half, raise_opset

HALVES = {"fp16": FLOAT16, "bf16": BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class PreparedPlan:
    """The graphs from which a plan is to be built."""

    precision: str
    graphs: tuple[PlanGraph, ...]
    """One graph, or one for each stage in the order in which they run."""

    kept: KeptNodes
    """Exactly the nodes that run in float32.

    1. In a strongly typed graph: those that stay in float32.
    2. In stages: all nodes of the stages without flags, and the pinned nodes of the core.
    """

    typed: bool
    """Whether the graph itself carries lower precision."""

    uncut_model: OnnxModel | None = None
    """The graph before it was cut into stages, if it runs in this precision as it is."""

    def add_plan(self, plan: BuiltPlan, alternatives: int = 1) -> "MadePlan":
        """Return the same with its plan."""
        return MadePlan(**vars(self), plan=plan, alternatives=alternatives)


@dataclass(frozen=True, kw_only=True)
class MadePlan(PreparedPlan):
    """A plan with the graphs from which it was made."""

    plan: BuiltPlan
    alternatives: int = 1
    """The number of plans in the file, each for some of the batch sizes."""


class PlanMaker:
    """Makes the plans of one graph."""

    def __init__(self, builder: PlanBuilder, model: OnnxModel, signature: Signature, options: PrecisionOptions) -> None:
        self.builder, self.library = builder, builder.library
        rewriters = list_rewriters(self.library)
        self.graphs = GraphMaker(model, options, builder.progress, builder.report, rewriters=rewriters)
        self.model, self.signature, self.options = self.graphs.model, signature, options

    def make_plan(self, precision: str) -> MadePlan:
        """Build the plan of a precision; raises `BuildError`."""
        prepared = self.prepare_plan(precision)
        return prepared.add_plan(self.builder.build_stages(prepared.graphs, precision))

    def prepare_plan(self, precision: str) -> PreparedPlan:
        """Make the graphs from which a plan is built; raises `BuildError`.

        1. float32: the graph as it is.
        2. A strongly typed network (TensorRT 10 and later): one graph, with a type for each tensor.
        3. Anything else (TensorRT 8.6, or `typed=False`): stages, of which the core gets flags.
        """
        typed = self._carries_types(precision)
        strong = typed and self.library.strongly_typed
        if precision == "fp32":
            graph = PlanGraph(model=self.model, signature=self.signature, strongly_typed=strong)
            return PreparedPlan(precision=precision, graphs=(graph,), kept=KeptNodes(), typed=typed)
        if precision == "bf16" and not self.library.has_bfloat16:
            raise BuildError(f"bf16: TensorRT {self.library.version} has no bfloat16; expected 9 or later, or fp16")
        element = HALVES.get(precision, FLOAT16)
        model, kept = self.model, self.graphs.find_kept_nodes(element)
        if precision == "int8":
            model, kept = self.graphs.quantize_graph(kept)
        if strong:
            if precision == "int8":
                # From this opset on, scales may be in half precision, so that quantizers fuse with half products.
                model = raise_opset(model, max(HALF_SCALES_OPSET, _read_opset(model)))
            model = convert_to_half(model, kept, element)
            graph = PlanGraph(model=model, signature=self.signature, strongly_typed=True)
            return PreparedPlan(precision=precision, graphs=(graph,), kept=kept, typed=typed)
        hinted = typed and precision in HALVES
        flags = (precision.upper(),) if precision in HALVES else ("INT8", "FP16")
        graphs, kept = self._make_stages(model, kept, flags, element if hinted else None)
        uncut = model if precision == "int8" and len(graphs) > 1 else None
        return PreparedPlan(precision=precision, graphs=graphs, kept=kept, typed=typed, uncut_model=uncut)

    def _make_stages(
        self, model: OnnxModel, kept: KeptNodes, flags: tuple[str, ...], element: int | None
    ) -> tuple[tuple[PlanGraph, ...], KeptNodes]:
        """Return stages: a core with flags, and before and after it stages in float32.

        If `element` is given, the core also carries the types of that half precision. In the core, only nodes that do
        not fit half precision are pinned: 8.6 sums norms in float32 anyway, and if norms are pinned it may run the
        whole core in float32.
        """
        stages = cut_into_stages(join_attention(model))
        core = next(stage.model for stage in stages if stage.is_core)
        pinned = set(kept.misfits).intersection(node.name for node in core.graph.node)
        graphs = []
        for stage in stages:
            if not stage.is_core:
                signature = self._extract_signature(stage.model, stages)
                graphs.append(PlanGraph(model=stage.model, signature=signature, strongly_typed=False))
                continue
            graph = core if element is None else convert_to_half(core, kept, element)
            names = tuple(node.name for node in core.graph.node if node.name in pinned)
            signature = self._extract_signature(core, stages)
            graphs.append(PlanGraph(model=graph, signature=signature, strongly_typed=False, flags=flags, pinned=names))
        low = {node.name for node in core.graph.node} - pinned
        reasons = {}
        for node in model.graph.node:
            if node.name not in low:
                reasons[node.name] = kept.reasons.get(node.name, "computed again for a stage that meets raw units")
        return tuple(graphs), KeptNodes(reasons, kept.not_quantized)

    def _extract_signature(self, model: OnnxModel, stages: tuple[Stage, ...]) -> Signature:
        return self.signature if len(stages) == 1 else extract_signature(model, "a stage of the graph")

    def _carries_types(self, precision: str) -> bool:
        """Whether the graph itself carries lower precision.

        TensorRT 8.6 takes such types as hints only, so by default it gets the float32 graph in stages, and flags.
        """
        if self.options.typed is not None:
            return self.options.typed
        return self.library.strongly_typed or precision not in HALVES


def list_rewriters(library: TensorRt) -> list[Callable[[OnnxModel], OnnxModel]]:
    """Return what rewrites a graph for a version of TensorRT, so that it takes the graph or runs it best."""
    rewriters: list[Callable[[OnnxModel], OnnxModel]] = []
    if not library.strongly_typed:
        rewriters.append(write_out_norms)
    if library.installed.major_version >= FIRST_VERSION:
        rewriters.append(write_out_elus)
    return rewriters


def _read_opset(model: OnnxModel) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
