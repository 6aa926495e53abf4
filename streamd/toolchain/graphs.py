"""Any ONNX graph with a dynamic batch axis: read, checked, and told as a signature.

What is wrong is named with the file, the tensor, and what was expected. The onnx package is imported when needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.errors import BuildError

OPSETS = range(13, 24)
"""Earlier ones lack per-channel quantization and bfloat16; later ones are not known here."""

Model = Any
"""An `onnx.ModelProto`; that package has no types."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: `shape` is that of one row, without the batch axis; None where an axis is not known."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_graph(path: Path) -> Model:
    """Read and check an ONNX file, weights included; raises `BuildError`."""
    onnx = import_onnx()
    if not path.is_file():
        raise BuildError(f"{path}: no such file; expected an ONNX model")
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path))
    except Exception as exc:  # the checker's errors, protobuf's and those of missing external data share no class
        raise BuildError(f"{path}: not a sound ONNX model: {_first_line(exc)}") from exc
    check_opset(model, path)
    signature_of(model, path)
    return model


def check_opset(model: Model, source: Path | str) -> int:
    """Return the opset of ONNX's own operators; raises `BuildError` where it or another domain is not known."""
    opsets = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if foreign := sorted(used - {"ai.onnx"}):
        raise BuildError(f"{source}: has operators of {', '.join(foreign)}; expected ONNX's own operators only")
    opset = opsets.get("ai.onnx", 0)
    if opset not in OPSETS:
        raise BuildError(f"{source}: opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}: export it again")
    return opset


def signature_of(model: Model, source: Path | str) -> Signature:
    """Return the signature; raises `BuildError` where an axis is not as a batched engine needs it.

    The first axis of every input and output must be dynamic, all other axes of the inputs fixed.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, "input", source) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_spec(value, "output", source) for value in model.graph.output)
    if not inputs or not outputs:
        raise BuildError(f"{source}: has {len(inputs)} inputs and {len(outputs)} outputs; expected some of each")
    for spec in inputs:
        if None in spec.shape:
            raise BuildError(
                f"{source}: input {spec.name!r} has a dynamic axis besides the batch (batch, {_told(spec.shape)});"
                " expected fixed sizes: export it with only the first axis dynamic"
            )
    return Signature(inputs, outputs)


CHANCE = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators that give other numbers each time."""

LEFT_UNFOLDED = CHANCE | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Scan"}
"""Operators that stay whatever they read: quantizers speak to the engine, and chance is no constant."""

LARGEST_FOLDED_BYTES = 16 * 2**20


def fold_constants(model: Model) -> Model:
    """Return a copy in which `Constant` nodes, and nodes that read nothing but constants, are initializers.

    So each reader can have its own type, and weights that are computed (masked, gathered) are weights.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        value = _constant_of(node) if node.op_type == "Constant" else None
        if value is None:
            copy.graph.node.append(node)
        else:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            copy.graph.initializer.append(tensor)
    name_nodes(copy)
    _compute_constants(copy)
    return copy


def _compute_constants(model: Model) -> None:
    """Compute what reads constants only, with ONNX's own reference, in place; constants that nobody reads go."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        given = [name for name in node.input if name]
        foldable = given and node.op_type not in LEFT_UNFOLDED and constants.keys() >= set(given)
        fixed = outputs.intersection(node.output) or any(names_read_inside(node))
        made = (
            _computed(node, [constants[name] for name in dict.fromkeys(given)], model) if foldable and not fixed else []
        )
        constants.update((tensor.name, tensor) for tensor in made)
        graph.initializer.extend(made)
        graph.node.extend([] if made else [node])
    if len(graph.node) == len(nodes):
        return
    read = {name for node in graph.node for name in (*node.input, *names_read_inside(node))} | outputs
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _computed(node: Any, constants: list[Any], model: Model) -> list[Any]:
    """What a node makes of constants; nothing where ONNX's reference lacks the operator, or it is large."""
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constants", [], outputs, constants)
    try:
        values = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import)).run(None, {})
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return []  # the engine's to fold
    arrays = [value for value in values if isinstance(value, np.ndarray | np.generic)]
    if len(arrays) != len(node.output) or sum(value.nbytes for value in arrays) > LARGEST_FOLDED_BYTES:
        return []
    return [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in zip(node.output, arrays, strict=True)
    ]


def name_nodes(model: Model) -> None:
    """Give every node a name of its own, in place: reports, pins and exclusions go by it."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_node_{number}"
        seen.add(node.name)


def element_types(model: Model) -> dict[str, int]:
    """The ONNX element type of every tensor by name, inferred where the file does not say."""
    onnx = import_onnx()
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def names_read_inside(node: Any) -> Iterator[str]:
    """Names that the subgraphs of a node (`If`, `Loop`, `Scan`) read: tensors of the graph around them among these."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from names_read_inside(inner)


def import_onnx() -> Any:
    """The onnx package with what is used of it; raises `BuildError` with how to install it."""
    try:
        import onnx
        import onnx.checker
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as exc:
        raise BuildError(f"the package onnx is missing ({exc}): pip install 'streamd[build]'") from exc
    return onnx


def _spec(value: Any, kind: str, source: Path | str) -> TensorSpec:
    onnx = import_onnx()
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise BuildError(f"{source}: {kind} {value.name!r} is no tensor; expected tensors only")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    dims = list(tensor.shape.dim)
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)
    if not dims or shape[0] is not None:
        found = f"fixed at {shape[0]}" if dims else "missing (it is a scalar, or its shape is not told)"
        raise BuildError(
            f"{source}: the batch axis of {kind} {value.name!r} is {found}; expected a dynamic first axis:"
            " export it with a named one (torch.onnx.export: dynamic_axes) from a batch of 2 or more"
        )
    return TensorSpec(value.name, dtype, shape[1:])


def _constant_of(node: Any) -> Any:
    """The tensor of a `Constant` node, or None where it is of a kind that no initializer can hold."""
    onnx = import_onnx()

    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in kinds:
            given = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.array(given, kinds[attribute.name]))
    return None


def _told(shape: Iterable[int | None]) -> str:
    return ", ".join("?" if size is None else str(size) for size in shape)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
