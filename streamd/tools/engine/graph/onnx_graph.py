"""Reads and checks any ONNX graph with a dynamic batch axis, and folds its constants.

Errors name the file, the tensor and what was expected. This module imports the onnx package only when it is needed.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.errors import BuildError, StreamdError
from streamd.core.names import ONNXRUNTIME_CPU
from streamd.inference.api.backends import OPENERS, OpenOptions, open_runners
from streamd.repository.external import count_model_bytes, find_data_files
from streamd.tools.engine.graph.external_weights import embed_weights

OPSETS = range(13, 24)
"""Earlier opsets lack per-channel quantization and bfloat16; later ones have not been tried."""

LARGEST_MESSAGE_BYTES = 2**31 - 1
"""The largest message that protobuf can write, and so the largest graph with all weights in it."""

TOO_LARGE = (
    "its weights take 2 GiB or more, which one protobuf cannot hold; expected less, or --backend onnxruntime"
    " --precision fp32, which copies the files as they are"
)

NUMERIC_KINDS = "biuf"
"""The kinds of NumPy types that a batch can have."""

OnnxModel = Any
"""An `onnx.ModelProto`; that package has no types."""


@dataclass(frozen=True, slots=True)
class GraphTensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """The shape of one row, without the batch axis; `None` for an axis of unknown size."""

    default: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """The row, `(1, ...)`, of an input that a caller may leave out."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a graph, in the order of the graph."""

    inputs: tuple[GraphTensorSpec, ...]
    outputs: tuple[GraphTensorSpec, ...]


@dataclass(frozen=True)
class LoadedGraph:
    """A graph that was read and checked."""

    model: OnnxModel
    has_weights: bool = True
    """False if the weights are too large for one protobuf and stay in their files.

    Such a graph can be copied and run as it is, but not changed.
    """


def read_graph(path: Path) -> OnnxModel:
    """Read and check an ONNX file with its weights; raises `BuildError`, also if it is too large to be changed."""
    loaded = load_graph(path)
    if not loaded.has_weights:
        raise BuildError(f"{path}: {TOO_LARGE}")
    return loaded.model


def load_graph(path: Path) -> LoadedGraph:
    """Read and check an ONNX file, with the weights that are in other files of its folder; raises `BuildError`.

    If all of it is more than one protobuf can hold, the weights stay in their files, and the graph is not checked in
    full; a runtime that opens it checks the rest.
    """
    onnx = import_onnx()
    if not path.is_file():
        raise BuildError(f"{path}: no such file; expected an ONNX model")
    if path.stat().st_size > LARGEST_MESSAGE_BYTES:
        raise BuildError(f"{path}: 2 GiB or more in one file; export it with its weights in a file beside it")
    try:
        model = onnx.load(str(path), load_external_data=False)
        files = find_data_files(path)
        has_weights = count_model_bytes(path) <= LARGEST_MESSAGE_BYTES
        if has_weights and files:
            embed_weights(model, files)
        _complete_outputs(model, path)
        if has_weights:
            onnx.checker.check_model(model, full_check=True)
    except StreamdError as exc:
        raise BuildError(str(exc)) from exc
    except Exception as exc:  # The errors of the checker and of protobuf have no common class.
        raise BuildError(f"{path}: not a sound ONNX model: {_first_line(exc)}") from exc
    check_opset(model, path)
    extract_signature(model, path)
    return LoadedGraph(model, has_weights)


def _complete_outputs(model: OnnxModel, path: Path) -> None:
    """Give each output without a shape the inferred shape or, if none can be inferred, the one that a run shows.

    A graph need not state even the number of axes of an output, but the checker and all builders need it. Raises
    `BackendUnavailableError` or `InferenceError` if the graph does not run.
    """
    missing = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if not missing:
        return
    inferred = import_onnx().shape_inference.infer_shapes(model).graph.output
    known = {value.name: value.type for value in inferred if value.type.tensor_type.HasField("shape")}
    axes = {} if {value.name for value in missing} <= set(known) else _count_axes_by_running(path)
    for value in missing:
        if value.name in known:
            value.type.CopyFrom(known[value.name])
        else:
            shape = value.type.tensor_type.shape
            shape.SetInParent()
            for number in range(axes[value.name]):
                shape.dim.add(**({"dim_param": "batch"} if number == 0 else {}))


def _count_axes_by_running(path: Path) -> dict[str, int]:
    """Run two rows of zeros; return the number of axes of each output."""
    with closing(open_runners(path, None, ONNXRUNTIME_CPU, OpenOptions(lanes=1), OPENERS).runners[0]) as runner:
        rows = {
            spec.name: np.zeros(tuple(size or 1 for size in (2, *spec.shape)), spec.dtype) for spec in runner.inputs
        }
        return {name: values.ndim for name, values in runner.run(rows).items()}


def serialize_graph(model: OnnxModel, target: Path | str) -> bytes:
    """Return the bytes of a graph; raises `BuildError`, with the name of the target, if one protobuf is too small."""
    try:
        content: bytes = model.SerializeToString()
    except Exception as exc:  # The errors of protobuf differ between its releases.
        raise BuildError(f"{target}: cannot be written ({_first_line(exc)}): a protobuf holds less than 2 GiB") from exc
    if len(content) > LARGEST_MESSAGE_BYTES:
        raise BuildError(f"{target}: {len(content):,} bytes; a protobuf holds less than 2 GiB")
    return content


def check_opset(model: OnnxModel, source: Path | str) -> int:
    """Return the opset of ONNX's own operators; raises `BuildError` if it, or the domain of an operator, is unknown."""
    opsets = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    if foreign := sorted(used - {"ai.onnx"}):
        raise BuildError(f"{source}: has operators of {', '.join(foreign)}; expected ONNX's own operators only")
    opset = opsets.get("ai.onnx", 0)
    if opset not in OPSETS:
        raise BuildError(f"{source}: opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}: export it again")
    return opset


def extract_signature(
    model: OnnxModel, source: Path | str, defaults: Mapping[str, npt.NDArray[Any]] | None = None
) -> Signature:
    """Return the signature of a graph; raises `BuildError` if an axis is not as a batched engine needs it.

    The first axis of every input and output must be dynamic; all other axes of the inputs must be fixed. `defaults` are
    rows `(1, ...)` of the inputs that a caller may leave out, by name.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_read_spec(value, "input", source) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_read_spec(value, "output", source) for value in model.graph.output)
    if not inputs or not outputs:
        raise BuildError(
            f"{source}: has {len(inputs)} inputs and {len(outputs)} outputs, expected at least one of each"
        )
    for spec in inputs:
        if None in spec.shape:
            shape = ", ".join("?" if size is None else str(size) for size in spec.shape)
            raise BuildError(
                f"{source}: input {spec.name!r} has a dynamic axis besides the batch (batch, {shape});"
                " expected fixed sizes: export it with only the first axis dynamic"
            )
    return Signature(tuple(replace(each, default=(defaults or {}).get(each.name)) for each in inputs), outputs)


RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators that return other numbers in each run."""

UNFOLDED_OPERATORS = RANDOM_OPERATORS | {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("If", "Loop", "Scan"),
}
"""Operators that are never folded: quantizers are instructions to the engine, and random numbers are no constants."""

LARGEST_FOLDED_BYTES = 16 * 2**20
"""Larger results are left for the engine to fold."""


def fold_constants(model: OnnxModel) -> OnnxModel:
    """Return a copy in which `Constant` nodes, and nodes that read only constants, are initializers.

    Then each reader can have its own copy in its own type, and computed weights (masked, gathered) count as weights.
    """
    onnx = import_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        value = _read_constant(node) if node.op_type == "Constant" else None
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
    """Replace nodes that read only constants by their results, in place, and remove constants without a reader."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        given = [name for name in node.input if name]
        foldable = given and node.op_type not in UNFOLDED_OPERATORS and constants.keys() >= set(given)
        fixed = outputs.intersection(node.output) or any(find_inner_reads(node))
        results = []
        if foldable and not fixed:
            results = _compute_node(node, [constants[name] for name in dict.fromkeys(given)], model)
        constants.update((tensor.name, tensor) for tensor in results)
        graph.initializer.extend(results)
        graph.node.extend([] if results else [node])
    if len(graph.node) == len(nodes):
        return
    read = {name for node in graph.node for name in (*node.input, *find_inner_reads(node))} | outputs
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _compute_node(node: Any, constants: list[Any], model: OnnxModel) -> list[Any]:
    """Return the results of a node that reads constants, computed by ONNX's reference implementation.

    Returns an empty list if the reference lacks the operator or the results are large.
    """
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constants", [], outputs, constants)
    try:
        values = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import)).run(None, {})
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return []  # The engine may still fold it.
    arrays = [value for value in values if isinstance(value, np.ndarray | np.generic)]
    if len(arrays) != len(node.output) or sum(value.nbytes for value in arrays) > LARGEST_FOLDED_BYTES:
        return []
    return [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in zip(node.output, arrays, strict=True)
    ]


def name_nodes(model: OnnxModel) -> None:
    """Give every node a unique name, in place, because reports, pins and exclusions use names."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_node_{number}"
        seen.add(node.name)


def infer_element_types(model: OnnxModel) -> dict[str, int]:
    """Return the ONNX element type of every tensor by name, inferred if the file does not state it."""
    onnx = import_onnx()
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def find_inner_reads(node: Any) -> Iterator[str]:
    """Yield the names that the subgraphs of a node (`If`, `Loop`, `Scan`) read, including those of the outer graph."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from find_inner_reads(inner)


def import_onnx() -> Any:
    """Return the onnx package with its submodules loaded; raises `BuildError` with the command that installs it."""
    try:
        import onnx
        import onnx.checker
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as exc:
        raise BuildError(f"the package onnx is missing ({exc}): pip install 'streamd[build]'") from exc
    return onnx


def _read_spec(value: Any, kind: str, source: Path | str) -> GraphTensorSpec:
    onnx = import_onnx()
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise BuildError(f"{source}: {kind} {value.name!r} is not a tensor, expected tensors only")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in NUMERIC_KINDS:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise BuildError(f"{source}: {kind} {value.name!r} has the type {name}, expected a numeric type of NumPy")
    dims = list(tensor.shape.dim)
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)
    if not dims or shape[0] is not None:
        missing = "missing (it is a scalar)" if tensor.HasField("shape") else "unknown (its shape is not given)"
        raise BuildError(
            f"{source}: the batch axis of {kind} {value.name!r} is {f'fixed at {shape[0]}' if dims else missing};"
            " expected a dynamic first axis:"
            " export it with a named one (torch.onnx.export: dynamic_axes) from a batch of 2 or more"
        )
    return GraphTensorSpec(value.name, str(dtype), shape[1:])


def _read_constant(node: Any) -> Any:
    """Return the tensor of a `Constant` node, or `None` if its kind cannot be an initializer."""
    onnx = import_onnx()

    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in kinds:
            given = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.array(given, kinds[attribute.name]))
    return None


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
