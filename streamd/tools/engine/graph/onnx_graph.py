"""Any ONNX graph with a dynamic batch axis: read, checked, and told as a signature.

What is wrong is named with the file, the tensor, and what was expected. The onnx package is imported when needed.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.errors import BuildError, StreamdError
from streamd.core.names import ONNXRUNTIME_CPU
from streamd.inference.api.backends import OPENERS, OpenOptions, open_runners
from streamd.repository.external import data_files, whole_bytes
from streamd.tools.engine.graph.external_weights import embed_weights

OPSETS = range(13, 24)
"""Earlier ones lack per-channel quantization and bfloat16; later ones are not known here."""

LARGEST_MESSAGE_BYTES = 2**31 - 1
"""What protobuf can write, and so a graph with all its weights in it."""

TOO_LARGE = (
    "its weights take 2 GiB or more, which one protobuf cannot hold; expected less, or --backend onnxruntime"
    " --precision fp32, which copies the files as they are"
)

NUMERIC_KINDS = "biuf"
"""Kinds of numpy types that a batch can be of."""

OnnxModel = Any
"""An `onnx.ModelProto`; that package has no types."""


@dataclass(frozen=True, slots=True)
class GraphTensorSpec:
    """An input or output: `shape` is that of one row, without the batch axis; None where an axis is not known."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives, in the graph's order."""

    inputs: tuple[GraphTensorSpec, ...]
    outputs: tuple[GraphTensorSpec, ...]


@dataclass(frozen=True)
class LoadedGraph:
    """A graph that was read and checked; `has_weights` is false where its weights were left in their files, for their size.

    Such a graph can be copied and run as it is, but not changed.
    """

    model: OnnxModel
    has_weights: bool = True


def read_graph(path: Path) -> OnnxModel:
    """Read and check an ONNX file, weights included; raises `BuildError`, also where it is too large to be changed."""
    loaded = load_graph(path)
    if not loaded.has_weights:
        raise BuildError(f"{path}: {TOO_LARGE}")
    return loaded.model


def load_graph(path: Path) -> LoadedGraph:
    """Read and check an ONNX file, with the weights that it keeps in files of its folder; raises `BuildError`.

    Where all of it is more than a protobuf can hold, the weights stay where they are, and so the graph is not checked
    in full: a runtime has to open it.
    """
    onnx = import_onnx()
    if not path.is_file():
        raise BuildError(f"{path}: no such file; expected an ONNX model")
    if path.stat().st_size > LARGEST_MESSAGE_BYTES:
        raise BuildError(f"{path}: 2 GiB or more in one file; export it with its weights in a file beside it")
    try:
        model = onnx.load(str(path), load_external_data=False)
        files = data_files(path)
        has_weights = whole_bytes(path) <= LARGEST_MESSAGE_BYTES
        if has_weights and files:
            embed_weights(model, files)
        _complete_outputs(model, path)
        if has_weights:
            onnx.checker.check_model(model, full_check=True)
    except StreamdError as exc:
        raise BuildError(str(exc)) from exc
    except Exception as exc:  # the checker's errors and protobuf's share no class
        raise BuildError(f"{path}: not a sound ONNX model: {_first_line(exc)}") from exc
    check_opset(model, path)
    extract_signature(model, path)
    return LoadedGraph(model, has_weights)


def _complete_outputs(model: OnnxModel, path: Path) -> None:
    """Give every output a shape where the graph does not: the nodes' or, where they leave it open, what running shows.

    A graph need not say even how many axes an output has; the checker and all builders want to know. Raises
    `BackendUnavailableError`, `InferenceError` where it does not run.
    """
    missing = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if not missing:
        return
    inferred = import_onnx().shape_inference.infer_shapes(model).graph.output
    known = {value.name: value.type for value in inferred if value.type.tensor_type.HasField("shape")}
    axes = {} if {value.name for value in missing} <= set(known) else _axes_by_running(path)
    for value in missing:
        if value.name in known:
            value.type.CopyFrom(known[value.name])
        else:
            shape = value.type.tensor_type.shape
            shape.SetInParent()
            for number in range(axes[value.name]):
                shape.dim.add(**({"dim_param": "batch"} if number == 0 else {}))


def _axes_by_running(path: Path) -> dict[str, int]:
    """How many axes each output has, seen on two rows of zeros."""
    with closing(open_runners(path, None, ONNXRUNTIME_CPU, OpenOptions(lanes=1), OPENERS).runners[0]) as runner:
        rows = {
            spec.name: np.zeros(tuple(size or 1 for size in (2, *spec.shape)), spec.dtype) for spec in runner.inputs
        }
        return {name: values.ndim for name, values in runner.run(rows).items()}


def serialize_graph(model: OnnxModel, what: Path | str) -> bytes:
    """A graph's bytes; raises `BuildError` where one protobuf cannot hold them."""
    try:
        content: bytes = model.SerializeToString()
    except Exception as exc:  # protobuf's errors differ between its releases
        raise BuildError(f"{what}: cannot be written ({_first_line(exc)}): a protobuf holds less than 2 GiB") from exc
    if len(content) > LARGEST_MESSAGE_BYTES:
        raise BuildError(f"{what}: {len(content):,} bytes; a protobuf holds less than 2 GiB")
    return content


def check_opset(model: OnnxModel, source: Path | str) -> int:
    """Return the opset of ONNX's own operators; raises `BuildError` where it or another domain is not known."""
    opsets = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if foreign := sorted(used - {"ai.onnx"}):
        raise BuildError(f"{source}: has operators of {', '.join(foreign)}; expected ONNX's own operators only")
    opset = opsets.get("ai.onnx", 0)
    if opset not in OPSETS:
        raise BuildError(f"{source}: opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}: export it again")
    return opset


def extract_signature(model: OnnxModel, source: Path | str) -> Signature:
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


RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators that give other numbers each time."""

UNFOLDED_OPERATORS = RANDOM_OPERATORS | {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "If",
    "Loop",
    "Scan",
}
"""Operators that stay whatever they read: quantizers speak to the engine, and chance is no constant."""

LARGEST_FOLDED_BYTES = 16 * 2**20


def fold_constants(model: OnnxModel) -> OnnxModel:
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


def _compute_constants(model: OnnxModel) -> None:
    """Compute what reads constants only, with ONNX's own reference, in place; constants that nobody reads go."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        given = [name for name in node.input if name]
        foldable = given and node.op_type not in UNFOLDED_OPERATORS and constants.keys() >= set(given)
        fixed = outputs.intersection(node.output) or any(find_inner_reads(node))
        made = (
            _computed(node, [constants[name] for name in dict.fromkeys(given)], model) if foldable and not fixed else []
        )
        constants.update((tensor.name, tensor) for tensor in made)
        graph.initializer.extend(made)
        graph.node.extend([] if made else [node])
    if len(graph.node) == len(nodes):
        return
    read = {name for node in graph.node for name in (*node.input, *find_inner_reads(node))} | outputs
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _computed(node: Any, constants: list[Any], model: OnnxModel) -> list[Any]:
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


def name_nodes(model: OnnxModel) -> None:
    """Give every node a name of its own, in place: reports, pins and exclusions go by it."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_node_{number}"
        seen.add(node.name)


def infer_element_types(model: OnnxModel) -> dict[str, int]:
    """The ONNX element type of every tensor by name, inferred where the file does not say."""
    onnx = import_onnx()
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def find_inner_reads(node: Any) -> Iterator[str]:
    """Names that the subgraphs of a node (`If`, `Loop`, `Scan`) read: tensors of the graph around them among these."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from find_inner_reads(inner)


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


def _spec(value: Any, kind: str, source: Path | str) -> GraphTensorSpec:
    onnx = import_onnx()
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise BuildError(f"{source}: {kind} {value.name!r} is no tensor; expected tensors only")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in NUMERIC_KINDS:
        what = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise BuildError(f"{source}: {kind} {value.name!r} is of type {what}; expected numbers that numpy has")
    dims = list(tensor.shape.dim)
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)
    if not dims or shape[0] is not None:
        missing = "missing (it is a scalar)" if tensor.HasField("shape") else "not known (its shape is not given)"
        raise BuildError(
            f"{source}: the batch axis of {kind} {value.name!r} is {f'fixed at {shape[0]}' if dims else missing};"
            " expected a dynamic first axis:"
            " export it with a named one (torch.onnx.export: dynamic_axes) from a batch of 2 or more"
        )
    return GraphTensorSpec(value.name, str(dtype), shape[1:])


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
