"""Changes of rank done without reshaping layers, which TensorRT 8.6 cannot hold in float32.

Pinned, such a layer leaves 8.6 without any implementation; not pinned, it may round what passes through it to half
precision. There a bound of 1e30 became 65,504, the largest float16, and with it every forecast in bytes a second
(seen on an H200). The graphs compute the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from streamd.toolchain.graphs import Model, import_onnx, names_read_inside

ELEMENT_WISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Mean", "Sum", "Where"),
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"),
    }
)
"""Operators that broadcast their inputs against each other: the parser reshapes those of lower rank."""


def without_reshapes(model: Model, kept: Collection[str]) -> Model:
    """Return a folded graph without reshaping layers at its kept nodes; the given one stays as it is.

    1. Constants of element-wise nodes, kept or not, get the rank of their output. 2. A kept Unsqueeze becomes a
    Gather with an index of two axes. 3. A kept Reshape that changes nothing goes. What cannot be inferred stays.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    surgeon = _Surgeon(copy, frozenset(kept))
    for node in list(copy.graph.node):
        if node.op_type in ELEMENT_WISE:
            surgeon.raise_constants(node)
        elif node.name in surgeon.kept and node.op_type == "Unsqueeze":
            surgeon.gather_instead(node)
        elif node.name in surgeon.kept and node.op_type == "Reshape":
            surgeon.drop_needless(node)
    surgeon.drop_unread_weights()
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Surgeon:
    """A graph under change, and what is known of its tensors' shapes: None for an axis that is open."""

    def __init__(self, model: Model, kept: frozenset[str]) -> None:
        self.onnx = import_onnx()
        self.graph = model.graph
        self.kept = kept
        inferred = self.onnx.shape_inference.infer_shapes(model).graph
        described = [*inferred.value_info, *inferred.input, *inferred.output]
        self.shapes = {each.name: _axes(each) for each in described if each.type.tensor_type.HasField("shape")}
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}

    def raise_constants(self, node: Any) -> None:
        """Let a node read its constants in the rank of its output."""
        rank = len(self.shapes.get(node.output[0], ()))
        for position, name in enumerate(node.input):
            if name in self.weights and len(self.weights[name].dims) < rank:
                values = self.constant(name)
                shape = (1,) * (rank - values.ndim) + values.shape
                node.input[position] = self._add(f"{name}_rank_{rank}", values.reshape(shape))

    def gather_instead(self, node: Any) -> None:
        """A new axis behind one of known length is what a Gather with an index of (length, 1) gives."""
        shape = self.shapes.get(node.input[0])
        axes = self.constant(node.input[1]).tolist() if len(node.input) > 1 and node.input[1] in self.weights else []
        if shape is None or len(axes) != 1:
            return
        axis = axes[0] % (len(shape) + 1)
        length = shape[axis - 1] if axis else None
        if length is None:
            return
        index = self._add(f"{node.name}_index", np.arange(length, dtype=np.int64).reshape(length, 1))
        make = self.onnx.helper.make_node
        node.CopyFrom(make("Gather", [node.input[0], index], list(node.output), name=node.name, axis=axis - 1))

    def drop_needless(self, node: Any) -> None:
        """Take a Reshape out whose input has its output's shape already: all but the batch, the first axis, known."""
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        if before is None or after is None or before[1:] != after[1:] or None in before[1:] or not before:
            return
        source, target = node.input[0], node.output[0]
        self.graph.node.remove(node)
        for other in self.graph.node:
            other.output[:] = [target if name == source else name for name in other.output]
            other.input[:] = [target if name == source else name for name in other.input]

    def drop_unread_weights(self) -> None:
        """Remove constants that nothing reads any more."""
        read = {name for node in self.graph.node for name in (*node.input, *names_read_inside(node))}
        read.update(output.name for output in self.graph.output)
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in read]:
            self.graph.initializer.remove(tensor)

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        """The values of a constant."""
        return np.asarray(self.onnx.numpy_helper.to_array(self.weights[name]))

    def _add(self, name: str, values: np.ndarray[Any, Any]) -> str:
        if name not in self.weights:
            tensor = self.onnx.numpy_helper.from_array(values, name)
            self.weights[name] = tensor
            self.graph.initializer.append(tensor)
        return name


def _axes(described: Any) -> tuple[int | None, ...]:
    dims = described.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)
