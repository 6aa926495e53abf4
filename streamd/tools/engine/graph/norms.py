"""Norms and sums written out as TensorRT 8.6 runs them best; later versions have layers of their own.

InstanceNormalization: its parser makes a plugin of it, which needs cuDNN and knows no version-compatible plans.
LayerNormalization: its parser's form takes the mean, then the variance of what is left, and so two kernels with the
centred values in float32 between; from the means of values and of squares it is one (seen in its kernels on an H200).
A sum over the first axis: its kernel reads memory across; additions of slices took 480 us instead of 700 (there too).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import OnnxModel, find_inner_reads, import_onnx

EPSILON = 1e-5
"""The operators' default."""

LAST_OPSET = 17
"""From 18 on a mean takes its axes otherwise; 8.6 takes no such graphs."""

MAX_SUMMANDS = 32


def write_out_norms(model: OnnxModel) -> OnnxModel:
    """Return a folded graph of opset 13 to 17 with norms and sums over the first axis written out, or the given one.

    A norm is written out where its weights are constants and the rank of its input is known, a sum where the number
    of its summands is.
    """
    onnx = import_onnx()
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > LAST_OPSET or not any(node.op_type in _WRITERS for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        write = _WRITERS.get(node.op_type)
        made = write(writer, node) if write is not None else []
        copy.graph.node.extend(made or [node])
    read = {name for node in copy.graph.node for name in (*node.input, *find_inner_reads(node))}
    read.update(output.name for output in copy.graph.output)
    for tensor in [tensor for tensor in copy.graph.initializer if tensor.name not in read]:
        copy.graph.initializer.remove(tensor)
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Writer:
    """What is known of a graph, and the constants that are added to it."""

    def __init__(self, model: OnnxModel) -> None:
        self.onnx = import_onnx()
        self.graph = model.graph
        inferred = self.onnx.shape_inference.infer_shapes(model).graph
        described = [*inferred.input, *inferred.value_info, *inferred.output]
        self.shapes = {
            each.name: [dim.dim_value or None for dim in each.type.tensor_type.shape.dim]
            for each in described
            if each.type.tensor_type.HasField("shape")
        }
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of a constant, or None."""
        tensor = self.weights.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def layer_norm(self, node: Any) -> list[Any]:
        """The nodes of a LayerNormalization over its last axes, from the means of values and of squares."""
        rank = len(self.shapes.get(node.input[0], ()))
        axis = _attribute(node, "axis", -1)
        factors = [self.constant(name) for name in node.input[1:]]
        if not rank or any(factor is None for factor in factors) or len(node.output) > 1:
            return []
        make = _Maker(self, node, rank)
        axes = list(range(axis % rank, rank))
        x = node.input[0]
        make("ReduceMean", "mean", x, axes=axes, keepdims=1)
        make("Mul", "squares", x, x)
        make("ReduceMean", "mean_square", "squares", axes=axes, keepdims=1)
        make("Mul", "square_mean", "mean", "mean")
        make("Sub", "difference", "mean_square", "square_mean")
        # Of a row that is all one value, rounding may leave less than nothing.
        make("Max", "variance", "difference", make.constant("zero", np.zeros((1,) * rank, np.float32)))
        make("Sub", "centred", x, "mean")
        return self._scaled(make, factors)

    def instance_norm(self, node: Any) -> list[Any]:
        """The nodes of an InstanceNormalization, over all axes from the third on."""
        rank = len(self.shapes.get(node.input[0], ()))
        factors = [self.constant(name) for name in node.input[1:]]
        if rank < 3 or any(factor is None for factor in factors):
            return []
        make = _Maker(self, node, rank)
        axes = list(range(2, rank))
        make("ReduceMean", "mean", node.input[0], axes=axes, keepdims=1)
        make("Sub", "centred", node.input[0], "mean")
        make("Mul", "squares", "centred", "centred")
        make("ReduceMean", "variance", "squares", axes=axes, keepdims=1)
        return self._scaled(make, [each.reshape(-1, *[1] * (rank - 2)) for each in factors if each is not None])

    def _scaled(self, make: _Maker, factors: list[Any]) -> list[Any]:
        """`centred` over the root of `variance`, times a scale and, where there is one, plus a bias."""
        epsilon = np.full((1,) * make.rank, _attribute(make.node, "epsilon", EPSILON), np.float32)
        make("Add", "kept_off_zero", "variance", make.constant("epsilon", epsilon))
        make("Sqrt", "deviation", "kept_off_zero")
        make("Div", "unit", "centred", "deviation")
        make("Mul", "scaled", "unit", make.constant("scale", factors[0]))
        if len(factors) > 1:
            make("Add", "shifted", "scaled", make.constant("bias", factors[1]))
        return make.finished()

    def outer_sum(self, node: Any) -> list[Any]:
        """A ReduceSum over the first axis alone as additions, in pairs so that rounding grows with their depth."""
        axes = self.constant(node.input[1]) if len(node.input) > 1 else None
        count = next(iter(self.shapes.get(node.input[0]) or [None]))
        if axes is None or axes.tolist() != [0] or count is None or not 2 <= count <= MAX_SUMMANDS:
            return []
        make = _Maker(self, node, 0)
        parts = make.split(node.input[0], count)
        while len(parts) > 1:
            pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
            parts = [make("Add", f"sum_{len(make.nodes)}", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
        if not _attribute(node, "keepdims", 1):
            make("Squeeze", "squeezed", parts[0], make.constant("axes", np.array([0], np.int64)))
        return make.finished()


class _Maker:
    """Makes the nodes that stand for one, named after it; tensors are known by short names among themselves."""

    def __init__(self, writer: _Writer, node: Any, rank: int) -> None:
        self.writer, self.node, self.rank = writer, node, rank
        self.nodes: list[Any] = []
        self._names: dict[str, str] = {}

    def __call__(self, kind: str, key: str, *inputs: str, **attributes: Any) -> str:
        self._names[key] = f"{self.node.name}/{key}"
        given = [self._names.get(name, name) for name in inputs]
        name = f"{self.node.name}/{key}_node"
        self.nodes.append(self.writer.onnx.helper.make_node(kind, given, [self._names[key]], name=name, **attributes))
        return key

    def split(self, source: str, count: int) -> list[str]:
        """Single slices of a tensor along its first axis."""
        keys = [f"part_{number}" for number in range(count)]
        self._names.update({key: f"{self.node.name}/{key}" for key in keys})
        outputs = [self._names[key] for key in keys]
        name = f"{self.node.name}/split_node"
        self.nodes.append(self.writer.onnx.helper.make_node("Split", [source], outputs, name=name, axis=0))
        return keys

    def constant(self, key: str, values: Any) -> str:
        """Add a constant to the graph; returns its name."""
        name = f"{self.node.name}/{key}"
        self.writer.graph.initializer.append(self.writer.onnx.numpy_helper.from_array(values, name))
        return name

    def finished(self) -> list[Any]:
        """The nodes, the last of which gives what the one gave."""
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


_WRITERS = {
    "LayerNormalization": _Writer.layer_norm,
    "InstanceNormalization": _Writer.instance_norm,
    "ReduceSum": _Writer.outer_sum,
}


def _attribute(node: Any, name: str, default: Any) -> Any:
    onnx = import_onnx()
    found = (each for each in node.attribute if each.name == name)
    return next((onnx.helper.get_attribute_value(each) for each in found), default)
