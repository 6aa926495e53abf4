"""Inputs that a caller may leave out: in ONNX, inputs with an initializer of the same name, which is their default.

ONNX Runtime takes the default of an input that is not fed. All else here, and TensorRT's parser, takes an initializer
for a weight: a plan of such a graph would silently lack the input. So `require_inputs` removes the defaults before a
graph is changed or parsed, and `restore_defaults` adds them to a graph that ONNX Runtime is to run.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.onnx_graph import OnnxModel, find_inner_reads, import_onnx

InputDefaults = Mapping[str, npt.NDArray[Any]]
"""The defaults of a graph's optional inputs, by name, each `(1, ...)`."""

LEAST_IR_VERSION = 4
"""Before it, each initializer had to be among the inputs, so none of them was optional."""

NODE_PREFIX = "/scaler/"
"""An optional input may be in raw units, so its nodes are named as those that stay in float32."""


def read_defaults(model: OnnxModel) -> InputDefaults:
    """Return the defaults of the optional inputs.

    Old exporters list the weights among the inputs; an optional input has a batch axis, which no weight has.
    """
    onnx = import_onnx()
    if model.ir_version < LEAST_IR_VERSION:
        return {}
    inputs = {value.name for value in model.graph.input if _has_batch_axis(value)}
    return {
        tensor.name: np.asarray(onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in inputs
    }


def require_inputs(model: OnnxModel, names: Collection[str]) -> OnnxModel:
    """Return the graph with these optional inputs made ordinary ones; without names, the given graph.

    The batch axes get one name again: TensorRT optimizes more if it knows that they are equal.
    """
    if not names:
        return model
    copy = import_onnx().ModelProto()
    copy.CopyFrom(model)
    for tensor in [tensor for tensor in copy.graph.initializer if tensor.name in names]:
        copy.graph.initializer.remove(tensor)
    axes = [_get_batch_axis(value) for value in copy.graph.input if _has_batch_axis(value)]
    shared = next((_get_batch_axis(v).dim_param for v in copy.graph.input if v.name not in names), "batch")
    for axis in axes:
        axis.dim_param = shared
    del copy.graph.value_info[:]
    return copy


def restore_defaults(model: OnnxModel, defaults: InputDefaults) -> OnnxModel:
    """Return the graph with these defaults, or the given graph if they are empty.

    Where a default is in use, its batch is 1 beside another batch. So its axis gets a name of its own, since ONNX
    Runtime reuses the memory of tensors whose axes have the same names. Raises `BuildError` if the graph has no such
    input.
    """
    if not defaults:
        return model
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name, value in defaults.items():
        _get_batch_axis(_find_input(copy, name, value)).dim_param = f"{name}_batch"
        copy.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    copy.ir_version = max(copy.ir_version, LEAST_IR_VERSION)
    del copy.graph.value_info[:]
    return copy


def add_default_input(model: OnnxModel, name: str, value: npt.NDArray[Any], *, like: str) -> OnnxModel:
    """Return a checked graph in which the float input `name` may be left out, with `value`, `(1, ...)`, as its default.

    Nodes are added that give a default as many rows as the integer input `like` has: they add zero times its values,
    which are always finite. Raises `BuildError` if the graph has no such inputs.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _find_input(copy, name, value)
    rank = next((len(each.type.tensor_type.shape.dim) for each in copy.graph.input if each.name == like), 0)
    if not rank:
        raise BuildError(f"input {like!r} is missing, expected an input with the rows for the default of {name!r}")
    if any(name in find_inner_reads(node) for node in copy.graph.node):
        raise BuildError(f"input {name!r} is read by a graph within a node, expected readers in the graph itself")
    nodes, constants, rows = _make_row_nodes(name, value.ndim, like, rank)
    for node in copy.graph.node:
        node.input[:] = [rows if each == name else each for each in node.input]
    for node in reversed(nodes):
        copy.graph.node.insert(0, node)
    copy.graph.initializer.extend(constants)
    made = restore_defaults(copy, {name: value})
    onnx.checker.check_model(made, full_check=True)
    return made


def _make_row_nodes(name: str, axes: int, like: str, like_axes: int) -> tuple[list[Any], list[Any], str]:
    """Return nodes that broadcast an input to the rows of another, their constants, and the result's name."""
    onnx = import_onnx()
    base = f"{NODE_PREFIX}{name}"
    sliced = np.arange(1, like_axes, dtype=np.int64)
    numbers = {
        "begin": np.zeros(like_axes - 1, np.int64),
        "end": np.ones(like_axes - 1, np.int64),
        "sliced_axes": sliced,
        "shape": np.array([-1, *[1] * (axes - 1)], np.int64),
        "zero": np.zeros((), np.float32),
    }
    constants = [onnx.numpy_helper.from_array(each, f"{base}/{key}") for key, each in numbers.items()]
    steps = [
        ("Slice", [like, f"{base}/begin", f"{base}/end", f"{base}/sliced_axes"], "first", {}),
        ("Cast", [f"{base}/first"], "float", {"to": onnx.TensorProto.FLOAT}),
        ("Mul", [f"{base}/float", f"{base}/zero"], "zeros", {}),
        ("Reshape", [f"{base}/zeros", f"{base}/shape"], "column", {}),
        ("Add", [name, f"{base}/column"], "rows", {}),
    ]
    nodes = [
        onnx.helper.make_node(kind, inputs, [f"{base}/{key}"], name=f"{base}/{kind}", **attributes)
        for kind, inputs, key, attributes in steps
    ]
    return nodes, constants, f"{base}/rows"


def _find_input(model: OnnxModel, name: str, value: npt.NDArray[Any]) -> Any:
    """Return the input that a default belongs to; raises `BuildError` if its type or row is another."""
    onnx = import_onnx()
    found = next((each for each in model.graph.input if each.name == name and _has_batch_axis(each)), None)
    if found is None:
        inputs = [each.name for each in model.graph.input]
        raise BuildError(f"the graph has the inputs {inputs}, expected {name!r} with a dynamic first axis")
    tensor = found.type.tensor_type
    row = tuple(dim.dim_value for dim in tensor.shape.dim[1:])
    expected = (onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    if (tensor.elem_type, (1, *row)) != expected:
        raise BuildError(f"input {name!r} has rows of {row}, its default is {value.shape} {value.dtype}")
    return found


def _has_batch_axis(value: Any) -> bool:
    """Whether an input has a first axis, and it is dynamic."""
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].HasField("dim_value")


def _get_batch_axis(value: Any) -> Any:
    return value.type.tensor_type.shape.dim[0]
