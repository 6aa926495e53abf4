"""Writes norms and sums out as elementary operators that TensorRT 8.6 runs best; later versions have layers for them.

This module keeps every graph equal up to rounding. The reasons:

- `InstanceNormalization`: the parser of 8.6 makes a plugin of it, which needs cuDNN and excludes version-compatible
  plans.
- `LayerNormalization`: the parser of 8.6 subtracts the mean first and then computes the variance, which takes two
  kernels with float32 values between them. Computed from the mean of the values and the mean of their squares, it is
  one kernel (seen on an H200).
- `ReduceSum` over the first axis: the kernel reads memory with a stride. Additions of slices took 480 us instead of 700
  (also on an H200).
"""

from typing import Any

import numpy as np

from streamd.tools.engine.graph.onnx_graph import OnnxModel, find_inner_reads, import_onnx

EPSILON = 1e-5
"""The default of the operators."""

LAST_OPSET = 17
"""From opset 18 on, the axes of `ReduceMean` are an input; 8.6 does not parse such graphs."""

MAX_SUMMANDS = 32
"""Longer sums stay `ReduceSum`."""


def write_out_norms(model: OnnxModel) -> OnnxModel:
    """Return a folded graph with norms and sums over the first axis written out, or the given graph itself.

    A norm is written out if its weights are constants and the rank of its input is known; a sum if the number of its
    summands is known. The opset is 13 to 17; a graph of a later opset is returned as it is.
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
    """Writes out nodes of one graph; knows its shapes and constants, and adds new constants to it."""

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

    def read_constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the values of a constant, or `None` if the tensor is not constant."""
        tensor = self.weights.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def write_layer_norm(self, node: Any) -> list[Any]:
        """Return the nodes of a `LayerNormalization`, from the mean of the values and the mean of their squares."""
        rank = len(self.shapes.get(node.input[0], ()))
        axis = _read_attribute(node, "axis", -1)
        factors = [self.read_constant(name) for name in node.input[1:]]
        if not rank or any(factor is None for factor in factors) or len(node.output) > 1:
            return []
        make = _NodeMaker(self, node, rank)
        axes = list(range(axis % rank, rank))
        x = node.input[0]
        make("ReduceMean", "mean", x, axes=axes, keepdims=1)
        make("Mul", "squares", x, x)
        make("ReduceMean", "mean_square", "squares", axes=axes, keepdims=1)
        make("Mul", "square_mean", "mean", "mean")
        make("Sub", "difference", "mean_square", "square_mean")
        # If all values of a row are equal, rounding may make the difference negative.
        make("Max", "variance", "difference", make.add_constant("zero", np.zeros((1,) * rank, np.float32)))
        make("Sub", "centred", x, "mean")
        return self._write_scaling(make, factors)

    def write_instance_norm(self, node: Any) -> list[Any]:
        """Return the nodes of an `InstanceNormalization`, over all axes from the third on."""
        rank = len(self.shapes.get(node.input[0], ()))
        factors = [self.read_constant(name) for name in node.input[1:]]
        if rank < 3 or any(factor is None for factor in factors):
            return []
        make = _NodeMaker(self, node, rank)
        axes = list(range(2, rank))
        make("ReduceMean", "mean", node.input[0], axes=axes, keepdims=1)
        make("Sub", "centred", node.input[0], "mean")
        make("Mul", "squares", "centred", "centred")
        make("ReduceMean", "variance", "squares", axes=axes, keepdims=1)
        return self._write_scaling(make, [each.reshape(-1, *[1] * (rank - 2)) for each in factors if each is not None])

    def _write_scaling(self, make: "_NodeMaker", factors: list[Any]) -> list[Any]:
        """Divide `centred` by the root of `variance`, scale it, add an optional bias, and return all nodes."""
        epsilon = np.full((1,) * make.rank, _read_attribute(make.node, "epsilon", EPSILON), np.float32)
        make("Add", "above_zero", "variance", make.add_constant("epsilon", epsilon))
        make("Sqrt", "deviation", "above_zero")
        make("Div", "unit", "centred", "deviation")
        make("Mul", "scaled", "unit", make.add_constant("scale", factors[0]))
        if len(factors) > 1:
            make("Add", "shifted", "scaled", make.add_constant("bias", factors[1]))
        return make.finish()

    def write_outer_sum(self, node: Any) -> list[Any]:
        """Return a `ReduceSum` over only the first axis as additions.

        They are added in pairs, so that rounding grows with the depth of the pairs and not with the number of summands.
        """
        axes = self.read_constant(node.input[1]) if len(node.input) > 1 else None
        count = next(iter(self.shapes.get(node.input[0]) or [None]))
        if axes is None or axes.tolist() != [0] or count is None or not 2 <= count <= MAX_SUMMANDS:
            return []
        make = _NodeMaker(self, node, 0)
        parts = make.split(node.input[0], count)
        while len(parts) > 1:
            pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
            parts = [make("Add", f"sum_{len(make.nodes)}", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
        if not _read_attribute(node, "keepdims", 1):
            make("Squeeze", "squeezed", parts[0], make.add_constant("axes", np.array([0], np.int64)))
        return make.finish()


class _NodeMaker:
    """Makes the nodes that replace one node; their names begin with its name.

    Within the replacement, a tensor is called by its key: `mean` stands for `<node>/mean`.
    """

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
        """Split a tensor into slices of one along its first axis; return their keys."""
        keys = [f"part_{number}" for number in range(count)]
        self._names.update({key: f"{self.node.name}/{key}" for key in keys})
        outputs = [self._names[key] for key in keys]
        name = f"{self.node.name}/split_node"
        self.nodes.append(self.writer.onnx.helper.make_node("Split", [source], outputs, name=name, axis=0))
        return keys

    def add_constant(self, key: str, values: Any) -> str:
        """Add a constant to the graph; return its name."""
        name = f"{self.node.name}/{key}"
        self.writer.graph.initializer.append(self.writer.onnx.numpy_helper.from_array(values, name))
        return name

    def finish(self) -> list[Any]:
        """Return the nodes; the last one has the output of the replaced node."""
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


_WRITERS = {
    "LayerNormalization": _Writer.write_layer_norm,
    "InstanceNormalization": _Writer.write_instance_norm,
    "ReduceSum": _Writer.write_outer_sum,
}


def _read_attribute(node: Any, name: str, default: Any) -> Any:
    onnx = import_onnx()
    found = (each for each in node.attribute if each.name == name)
    return next((onnx.helper.get_attribute_value(each) for each in found), default)
