"""Converts a float32 graph to half precision (float16 or bfloat16), except the kept nodes.

This module does not choose the kept nodes; `kept_nodes` does. A cast is added only where the precision changes, so that
nothing is rounded between two kept nodes. Converters that add casts around each kept node send raw units through
float16, where they overflow.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import (
    RANDOM_OPERATORS,
    OnnxModel,
    find_inner_reads,
    import_onnx,
    infer_element_types,
)

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
"""ONNX's element types."""

ALWAYS_FLOAT_OPERATORS = RANDOM_OPERATORS | {
    *("ConstantOfShape", "EyeLike", "Range", "CumSum", "TopK", "NonMaxSuppression", "DynamicQuantizeLinear"),
    *("If", "Loop", "Scan"),
}
"""Operators whose type is an attribute, whose sums need float32, or that contain graphs."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
HALF_SCALES_OPSET = 19
"""The first opset in which the scales of quantization may be in half precision."""

ALWAYS_FLOAT_INPUTS = {"Resize": frozenset({1, 2})}
"""The positions of the inputs that an operator takes in float32 only."""


class HalfConverter:
    """Converts one graph in place. Its constants must be initializers and its nodes must have names."""

    def __init__(self, model: OnnxModel, kept: Iterable[str], element: int) -> None:
        self.model, self.graph, self.element = model, model.graph, element
        self.kept = set(kept) | self._find_unconvertible_nodes()
        types = infer_element_types(model)
        self.stored = {name: FLOAT for name, kind in types.items() if kind == FLOAT}
        """The current type of every tensor that was float32."""
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self._casts: dict[tuple[str, int], str] = {}

    def convert(self) -> OnnxModel:
        """Convert and return the graph; its inputs and outputs keep their types."""
        nodes = list(self.graph.node)
        del self.graph.node[:], self.graph.value_info[:]
        for node in nodes:
            low = node.name not in self.kept
            fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, frozenset())
            for position, name in enumerate(node.input):
                if name in self.stored:
                    required = self.element if low and position not in fixed else FLOAT
                    node.input[position] = self._cast(name, required)
            if low:
                self._lower_node(node)
            self.graph.node.append(node)
        self._restore_outputs()
        self._drop_unread_weights()
        return self.model

    def _find_unconvertible_nodes(self) -> set[str]:
        """Return nodes that stay in float32 in any case: of float32 operators, or read by a graph within a node."""
        opset = next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))
        operators = ALWAYS_FLOAT_OPERATORS | (QUANTIZERS if opset < HALF_SCALES_OPSET else frozenset())
        inside = {name for node in self.graph.node for name in find_inner_reads(node)}
        return {n.name for n in self.graph.node if n.op_type in operators or inside.intersection(n.output)}

    def _cast(self, name: str, element: int) -> str:
        """Return the name of a tensor in an element type; adds the cast, or the rounded weight, if it is the first."""
        if self.stored[name] == element:
            return name
        if (name, element) not in self._casts:
            onnx = import_onnx()
            other = self._casts[name, element] = f"{name}_as_{_SUFFIXES[element]}"
            if name in self.weights:
                self.graph.initializer.append(_round_weight(self.weights[name], other, element))
            else:
                node = onnx.helper.make_node("Cast", [name], [other], name=f"{other}_cast", to=element)
                self.graph.node.append(node)
        return self._casts[name, element]

    def _lower_node(self, node: Any) -> None:
        """Record that the outputs of a node are in half precision, and let a cast to float32 cast to it."""
        for name in node.output:
            if name in self.stored:
                self.stored[name] = self.element
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == FLOAT:
                    attribute.i = self.element

    def _restore_outputs(self) -> None:
        """Cast outputs in half precision back to float32, under their own names."""
        onnx = import_onnx()
        for output in self.graph.output:
            if self.stored.get(output.name, FLOAT) == FLOAT:
                continue
            inner = f"{output.name}_as_{_SUFFIXES[self.element]}"
            for node in self.graph.node:
                node.input[:] = [inner if name == output.name else name for name in node.input]
                node.output[:] = [inner if name == output.name else name for name in node.output]
            cast = onnx.helper.make_node("Cast", [inner], [output.name], name=f"{output.name}_cast", to=FLOAT)
            self.graph.node.append(cast)

    def _drop_unread_weights(self) -> None:
        read = {name for node in self.graph.node for name in (*node.input, *find_inner_reads(node))}
        read.update(output.name for output in self.graph.output)
        unread = [tensor for tensor in self.graph.initializer if tensor.name not in read]
        for tensor in unread:
            self.graph.initializer.remove(tensor)


_SUFFIXES = {FLOAT: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16"}


def round_to(values: np.ndarray, element: int) -> np.ndarray:
    """Return float values rounded to half precision, as float32; values out of range become infinite."""
    with np.errstate(over="ignore"):
        if element == FLOAT16:
            return values.astype(np.float16).astype(np.float32)
    return (_convert_to_bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)


def _round_weight(tensor: Any, name: str, element: int) -> Any:
    """Return a weight in another element type, rounded to nearest."""
    onnx = import_onnx()
    values = np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
    with np.errstate(over="ignore"):
        bits = values.astype(np.float16) if element == FLOAT16 else _convert_to_bfloat16_bits(values)
    return onnx.helper.make_tensor(name, element, values.shape, bits.tobytes(), raw=True)


def _convert_to_bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return bfloat16 as uint16: the upper half of each float32, rounded to nearest even; NaN stays NaN.

        float32:   s eeeeeeee mmmmmmm | mmmmmmmmmmmmmmmm
        bfloat16:  s eeeeeeee mmmmmmm   the lower 16 bits are rounded off

    Adding 0x7FFF rounds up if the lower half is above 0x8000; adding the lowest bit that remains makes a tie even.
    """
    bits = np.atleast_1d(np.ascontiguousarray(values, np.float32)).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(np.atleast_1d(values)), 0x7FC0, rounded)
    return rounded.astype(np.uint16).reshape(np.shape(values))
