"""Chooses the nodes that stay in float32, with the reasons, and converts the rest to half precision.

The converted graphs carry all types themselves: ONNX Runtime and strongly typed TensorRT networks (10 and later) take
them as they are. This module does not quantize.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants, import_onnx
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT16, HalfConverter
from streamd.tools.engine.precision.ranges import CalibrationWindows, RangeFinder

PINNED_PREFIXES: Mapping[str, str] = {
    "/scaler/": "meets raw units",
    "/restorer/": "meets raw units",
    "/window_quantiles/": "counts values beside edges",
}
"""The names of nodes that half precision would ruin begin so, after the network's modules that hold them; and why.

Raw units are bytes, seconds. A value that is rounded across an edge moved a forecast by up to a third.
"""

SENSITIVE_OPERATORS = frozenset(
    {
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"),
        *("Softmax", "LogSoftmax", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("Pow", "Exp", "Log", "Reciprocal", "Sqrt"),
    }
)
"""Operators that sum many terms, and functions that are steep where half precision is coarse."""

PINNED, SENSITIVE = "pinned: ", "sensitive: "
"""The beginnings of reasons that are no measurement."""


@dataclass(frozen=True)
class KeptNodes:
    """Nodes that stay in float32."""

    reasons: Mapping[str, str] = field(default_factory=dict)
    """The reason for each node, by name, in the order of the graph."""

    not_quantized: Mapping[str, str] = field(default_factory=dict)
    """In int8, the products that are not quantized but may be in half precision, with the reasons."""

    @property
    def names(self) -> list[str]:
        """Return the names of the nodes, in the order of the graph."""
        return list(self.reasons)

    @property
    def misfits(self) -> list[str]:
        """Return the nodes that write or read a tensor that did not fit half precision, in the order of the graph."""
        return [name for name, reason in self.reasons.items() if not reason.startswith((PINNED, SENSITIVE))]


def choose_kept_nodes(
    model: OnnxModel,
    windows: CalibrationWindows | None,
    element: int = FLOAT16,
    *,
    prefixes: Iterable[str] = PINNED_PREFIXES,
    operators: Iterable[str] = SENSITIVE_OPERATORS,
    on_progress: Callable[[int, int], None] | None = None,
) -> KeptNodes:
    """Return the nodes of a folded graph to keep in float32; the first that applies is the reason.

    1. Nodes that are pinned by name.
    2. Nodes that write or read a tensor that does not fit half precision on `windows`; skipped if that is `None`.
    3. Nodes of sensitive operators, and what is subtracted from an exponential, as in exp(x) - 1.
    """
    starts, operators = tuple(prefixes), set(operators)
    misfits = RangeFinder(element).find_misfits(model, windows, on_progress) if windows is not None else {}
    reasons = {}
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        touched = [name for name in (*node.output, *node.input) if name in misfits]
        if start := next((each for each in starts if node.name.startswith(each)), None):
            reasons[node.name] = f"{PINNED}{PINNED_PREFIXES.get(start, 'by its name')}"
        elif touched and _computes(node):
            reasons[node.name] = f"{touched[0]} {misfits[touched[0]]}"
        elif node.op_type in operators:
            reasons[node.name] = f"{SENSITIVE}{node.op_type}"
        elif node.op_type == "Sub" and "Exp" in operators and made_by.get(node.input[0]) == "Exp":
            reasons[node.name] = f"{SENSITIVE}Sub of an Exp, which cancels"
    return KeptNodes(reasons)


def convert_to_half(model: OnnxModel, kept: KeptNodes, element: int = FLOAT16) -> OnnxModel:
    """Return a checked copy of a folded graph in float16 or bfloat16, except the kept nodes.

    Its inputs and outputs keep their types.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted = HalfConverter(copy, kept.names, element).convert()
    # ONNX's own schemas lack bfloat16 for operators (Softplus, Elu) that TensorRT takes in it.
    onnx.checker.check_model(converted, full_check=element != BFLOAT16)
    return converted


def raise_opset(model: OnnxModel, opset: int) -> OnnxModel:
    """Return the graph in a later opset, converted by ONNX's own converter."""
    import onnx.version_converter

    return fold_constants(onnx.version_converter.convert_version(model, opset))


def _computes(node: object) -> bool:
    """Whether a node computes numbers from the values of its inputs; the others lose nothing in half precision."""
    return getattr(node, "op_type", "") not in {"Shape", "Size", "IsNaN", "IsInf"}
