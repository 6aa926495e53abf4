"""A float32 graph into half precision (float16 or bfloat16), but for the nodes that are named.

A cast stands only where one precision meets the other, so between two kept nodes nothing is ever rounded:
converters that cast about each kept node by itself send raw units through float16, where they overflow.
"""

from __future__ import annotations

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
"""Operators whose type is an attribute, whose sums need float32, or that hold graphs of their own."""

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
HALF_SCALES_OPSET = 19
"""Before it the scales of quantization are float32 only."""

ALWAYS_FLOAT_INPUTS = {"Resize": frozenset({1, 2})}
"""Inputs, by position, that an operator takes in float32 only."""


class HalfConverter:
    """Converts one graph, whose constants are initializers and whose nodes are named, in place."""

    def __init__(self, model: OnnxModel, kept: Iterable[str], element: int) -> None:
        self.model, self.graph, self.element = model, model.graph, element
        self.kept = set(kept) | self._must_be_kept()
        types = infer_element_types(model)
        self.stored = {name: FLOAT for name, kind in types.items() if kind == FLOAT}
        """The type, now, of every tensor that was float32."""
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self._casts: dict[tuple[str, int], str] = {}

    def convert(self) -> OnnxModel:
        """Return the graph; inputs and outputs keep their types."""
        nodes = list(self.graph.node)
        del self.graph.node[:], self.graph.value_info[:]
        for node in nodes:
            low = node.name not in self.kept
            fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, frozenset())
            for position, name in enumerate(node.input):
                if name in self.stored:
                    wanted = self.element if low and position not in fixed else FLOAT
                    node.input[position] = self._as(name, wanted)
            if low:
                self._lower(node)
            self.graph.node.append(node)
        self._restore_outputs()
        self._drop_unread_weights()
        return self.model

    def _must_be_kept(self) -> set[str]:
        """Nodes that no list needs to name: of operators that are float32 only, or read by a graph within a node."""
        opset = next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))
        operators = ALWAYS_FLOAT_OPERATORS | (QUANTIZERS if opset < HALF_SCALES_OPSET else frozenset())
        inside = {name for node in self.graph.node for name in find_inner_reads(node)}
        return {n.name for n in self.graph.node if n.op_type in operators or inside.intersection(n.output)}

    def _as(self, name: str, wanted: int) -> str:
        """The name under which a tensor is to be had in the wanted type; the nodes so far give it."""
        if self.stored[name] == wanted:
            return name
        if (name, wanted) not in self._casts:
            onnx = import_onnx()
            other = self._casts[name, wanted] = f"{name}_as_{_SUFFIXES[wanted]}"
            if name in self.weights:
                self.graph.initializer.append(_rounded(self.weights[name], other, wanted))
            else:
                node = onnx.helper.make_node("Cast", [name], [other], name=f"{other}_cast", to=wanted)
                self.graph.node.append(node)
        return self._casts[name, wanted]

    def _lower(self, node: Any) -> None:
        for name in node.output:
            if name in self.stored:
                self.stored[name] = self.element
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == FLOAT:
                    attribute.i = self.element

    def _restore_outputs(self) -> None:
        """Outputs that are now in half precision are cast back, under their own names."""
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
    """Values of any float as float32 that hold what half precision keeps of them; out of range is infinite."""
    with np.errstate(over="ignore"):
        if element == FLOAT16:
            return values.astype(np.float16).astype(np.float32)
    return (_bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)


def _rounded(tensor: Any, name: str, element: int) -> Any:
    """A weight in another type, rounded to nearest."""
    onnx = import_onnx()
    values = np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
    with np.errstate(over="ignore"):
        bits = values.astype(np.float16) if element == FLOAT16 else _bfloat16_bits(values)
    return onnx.helper.make_tensor(name, element, values.shape, bits.tobytes(), raw=True)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The upper half of each float32, rounded to nearest even; NaN stays NaN."""
    bits = np.atleast_1d(np.ascontiguousarray(values, np.float32)).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(np.atleast_1d(values)), 0x7FC0, rounded)
    return rounded.astype(np.uint16).reshape(np.shape(values))
