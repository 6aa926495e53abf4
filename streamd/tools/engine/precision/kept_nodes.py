"""Precision lives in the graph: which nodes stay in float32 and why, and the graph for each precision.

The graphs are what a strongly typed TensorRT network (10 and later) takes as it is, and they run in ONNX Runtime.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants, import_onnx
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT16, HalfConverter
from streamd.tools.engine.precision.ranges import CalibrationWindows, RangeFinder

PINNED_PREFIXES = ("/scaler/", "/restorer/")
"""Nodes that meet raw units (bytes, seconds), by the modules that hold them."""

SENSITIVE_OPERATORS = frozenset(
    {
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"),
        *("Softmax", "LogSoftmax", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("Pow", "Exp", "Log", "Reciprocal", "Sqrt"),
    }
)
"""Sums over many terms, and functions that are steep where half precision is coarse."""

PINNED, SENSITIVE = "pinned: ", "sensitive: "
"""How reasons begin that are no measurement."""


@dataclass(frozen=True)
class KeptNodes:
    """The nodes that stay in float32, name to reason; of int8, also the products that are merely not quantized."""

    reasons: Mapping[str, str] = field(default_factory=dict)
    not_quantized: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The nodes, in the graph's order."""
        return list(self.reasons)

    @property
    def misfits(self) -> list[str]:
        """Those that make or read what was seen not to fit, in the graph's order."""
        return [name for name, reason in self.reasons.items() if not reason.startswith((PINNED, SENSITIVE))]


def choose_kept_nodes(
    model: OnnxModel,
    windows: CalibrationWindows | None,
    element: int = FLOAT16,
    prefixes: Iterable[str] = PINNED_PREFIXES,
    operators: Iterable[str] = SENSITIVE_OPERATORS,
    on_progress: Callable[[int, int], None] | None = None,
) -> KeptNodes:
    """Return the nodes of a folded graph to keep in float32.

    Those that are pinned by name, those that make or read a tensor which does not fit on `windows` (none are
    compared where that is None), and those of sensitive operators; the first of these is told as the reason.
    """
    starts, operators = tuple(prefixes), set(operators)
    misfits = RangeFinder(element).find_misfits(model, windows, on_progress) if windows is not None else {}
    reasons = {}
    for node in model.graph.node:
        touched = [name for name in (*node.output, *node.input) if name in misfits]
        if starts and node.name.startswith(starts):
            reasons[node.name] = f"{PINNED}meets raw units"
        elif touched and _computes(node):
            reasons[node.name] = f"{touched[0]} {misfits[touched[0]]}"
        elif node.op_type in operators:
            reasons[node.name] = f"{SENSITIVE}{node.op_type}"
    return KeptNodes(reasons)


def convert_to_half(model: OnnxModel, kept: KeptNodes, element: int = FLOAT16) -> OnnxModel:
    """Return a folded graph in float16 or bfloat16 but for the kept nodes; it is checked. The given one is not changed.

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
    """Return the graph in a later opset, as ONNX's own converter writes it."""
    import onnx.version_converter

    return fold_constants(onnx.version_converter.convert_version(model, opset))


def _computes(node: object) -> bool:
    """Whether a node makes numbers out of numbers; one that compares or moves loses nothing that its reader keeps."""
    return getattr(node, "op_type", "") not in {"Shape", "Size", "IsNaN", "IsInf"}
