"""One graph into plans of several precisions: which graph each is built from, and what is kept in float32."""

from __future__ import annotations

from dataclasses import dataclass

from streamd.core.errors import BuildError
from streamd.toolchain.builder import BuiltPlan, PlanBuilder, PlanGraph
from streamd.toolchain.graphs import Model, Signature, fold_constants
from streamd.toolchain.half import BFLOAT16, FLOAT16, HALF_SCALES_OPSET
from streamd.toolchain.precision import SENSITIVE_OPERATORS, Kept, choose_kept, raise_opset, to_half
from streamd.toolchain.quantize import Quantizer
from streamd.toolchain.ranges import Windows

COMPARED_WINDOWS = 256
"""How many windows decide what fits half precision: each is run once for every group of tensors."""


@dataclass(frozen=True)
class PrecisionOptions:
    """How graphs of lower precision are made.

    windows: for calibration and for comparing, or None; typed: feed the builder graphs that carry their own
    types (True), float32 graphs and flags (False), or the first of these that it takes (None).
    """

    windows: Windows | None = None
    calibration: str = "entropy"
    per_channel: bool = True
    typed: bool | None = None
    sensitive_operators: frozenset[str] = SENSITIVE_OPERATORS


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
        self.builder, self.library, self.progress = builder, builder.library, builder.progress
        self.model, self.signature, self.options = fold_constants(model), signature, options
        self._kept: dict[int, Kept] = {}

    def make(self, precision: str) -> MadePlan:
        """Build the plan of a precision, in the first of the ways that TensorRT takes; raises `BuildError`."""
        ways = self._ways(precision)
        for way in ways:
            try:
                graph, kept = self.graph(precision, typed=way)
                return MadePlan(precision, self.builder.build(graph, precision), graph, kept, way)
            except BuildError as exc:
                if way is ways[-1]:
                    raise
                self.builder.note(f"{exc}; trying the float32 graph with flags")
        raise AssertionError("there is always a way")

    def graph(self, precision: str, *, typed: bool) -> tuple[PlanGraph, Kept]:
        """What a plan is built from, and the nodes it keeps in float32."""
        if precision == "fp32":
            return self._plan_graph(self.model, typed), Kept()
        if precision == "bf16":
            if not self.library.has_bfloat16:
                raise BuildError(f"bf16: TensorRT {self.library.version} has no bfloat16; expected 9 or later, or fp16")
            kept = self._keep(BFLOAT16)
            model = to_half(self.model, kept, BFLOAT16) if typed else self.model
            return self._plan_graph(model, typed, ("BF16",), kept), kept
        kept = self._keep(FLOAT16)
        if precision == "fp16":
            model = to_half(self.model, kept) if typed else self.model
            return self._plan_graph(model, typed, ("FP16",), kept), kept
        model, kept = self._quantized(kept)
        if typed and self.library.strongly_typed:
            # Only from this opset on do scales in half precision let the quantizers fuse with half products.
            model = to_half(raise_opset(model, max(HALF_SCALES_OPSET, _opset(model))), kept)
        return self._plan_graph(model, typed, ("INT8", "FP16"), kept), kept

    def _ways(self, precision: str) -> list[bool]:
        if self.options.typed is not None:
            return [self.options.typed]
        return [True, False] if precision == "fp16" and not self.library.strongly_typed else [True]

    def _plan_graph(
        self, model: Model, typed: bool, flags: tuple[str, ...] = (), kept: Kept | None = None
    ) -> PlanGraph:
        if typed and self.library.strongly_typed:
            return PlanGraph(model, self.signature, strongly_typed=True)
        return PlanGraph(model, self.signature, False, flags, tuple(kept.names) if kept else ())

    def _keep(self, element: int) -> Kept:
        if element not in self._kept:
            windows = self.options.windows
            compared = None if windows is None else {name: array[:COMPARED_WINDOWS] for name, array in windows.items()}
            if compared is None:
                self.builder.note("no --calibration-data: what overflows half precision is not looked for")
            with self.progress.job("comparing with half precision", 0) as job:
                operators = self.options.sensitive_operators
                self._kept[element] = choose_kept(self.model, compared, element, operators=operators, told=job.to)
        return self._kept[element]

    def _quantized(self, kept: Kept) -> tuple[Model, Kept]:
        """The graph with Q/DQ pairs, and what is kept in float32 or merely not quantized."""
        windows = self.options.windows
        if windows is None:
            raise BuildError("int8: needs real windows: give --calibration-data")
        count = len(next(iter(windows.values())))
        self.builder.note(f"int8: calibrating on {count} windows ({self.options.calibration})")
        quantizer = Quantizer(self.options.calibration, self.options.per_channel)
        with self.progress.job("int8: comparing each product", 0) as job:
            model = quantizer.quantize(self.model, windows, kept, told=job.to)
        return model, Kept(kept.reasons, quantizer.left)


def _opset(model: Model) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
