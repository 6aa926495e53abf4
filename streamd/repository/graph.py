"""Reads the inputs and outputs of a `model.onnx` from its bytes, so that no runtime is needed to refuse a graph.

Reads only inputs, outputs and the names of initializers; nodes and weights are skipped.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT, ModelContract
from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular
from streamd.repository.protobuf import Buffer, Span, decode_text, read_fields

ELEMENT_TYPES = {1: "float32", 6: "int32", 7: "int64", 10: "float16", 11: "float64", 16: "bfloat16"}
"""The element types that are likely here, by their number in ONNX."""

_GRAPH = 7  # in ModelProto
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12  # in GraphProto
_INITIALIZER_NAME = 8  # in TensorProto


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph; the size of an open axis is `None`."""

    name: str
    element_type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphSignature:
    """The inputs of a graph, without those that have a value in the graph, and its outputs, by name.

    `defaults` are the inputs that have one: weights, and inputs that a caller may leave out.
    """

    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]
    defaults: Mapping[str, GraphTensor]


def check_graph(path: Path, contract: ModelContract) -> None:
    """Raise `RepositoryError` unless inputs and outputs follow the contract and have a dynamic batch axis."""
    graph = read_signature(path)
    expected = contract.input_shapes
    optional = {name: tensor for name, tensor in graph.defaults.items() if name == MEMORY_INPUT and name in expected}
    inputs = {**graph.inputs, **optional}
    if set(inputs) != set(expected):
        raise RepositoryError(
            f"{path}: a foreign network: its inputs are {sorted(inputs)}, expected {sorted(expected)}; "
            "export the model with the contract's inputs"
        )
    if "predictions" not in graph.outputs:
        raise RepositoryError(
            f"{path}: a foreign network: its outputs are {sorted(graph.outputs)}, expected 'predictions'; "
            "export the model with the contract's output"
        )
    for name, shape in expected.items():
        _check_tensor(path, inputs[name], shape, INPUT_TYPES[name])
    _check_tensor(path, graph.outputs["predictions"], contract.output_shape, "float32")


def read_signature(path: Path) -> GraphSignature:
    """Read the graph's inputs and outputs; raises `RepositoryError` if the file is no ONNX model."""
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_model(data)
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # by `mmap` for an empty file, else by the parser
        raise RepositoryError(f"{path}: not an ONNX model ({exc}); export the model to ONNX again") from exc


def _check_tensor(path: Path, tensor: GraphTensor, shape: tuple[int, ...], element_type: str) -> None:
    remedy = "config.json and the graph must be of one export: export the model again"
    if tensor.element_type != element_type:
        raise RepositoryError(f"{path}: {tensor.name} is {tensor.element_type}, expected {element_type}; {remedy}")
    if not tensor.shape:
        return  # a graph may leave even the number of axes open; the check of the runtime finds a wrong one
    batch, *rest = tensor.shape
    if batch is not None:
        raise RepositoryError(
            f"{path}: {tensor.name} has a fixed batch of {batch}, expected a dynamic axis; "
            "export with the first axis of every input and output dynamic"
        )
    fits = len(rest) == len(shape) and all(size in (None, fixed) for size, fixed in zip(rest, shape, strict=True))
    if not fits:
        found = ", ".join("?" if size is None else str(size) for size in rest)
        expected = ", ".join(map(str, shape))
        raise RepositoryError(
            f"{path}: {tensor.name} is (batch, {found}), expected (batch, {expected}) by config.json; {remedy}"
        )


# ---------------------------------------------------------------- the file's format
def _read_model(data: Buffer) -> GraphSignature:
    graphs = [span for field, span in read_fields(data, (0, len(data))) if field == _GRAPH]
    if not graphs:
        raise ValueError("it has no graph")
    inputs: dict[str, GraphTensor] = {}
    outputs: dict[str, GraphTensor] = {}
    weights: set[str] = set()
    for field, span in read_fields(data, graphs[-1]):
        if field == _INPUT:
            tensor = _read_tensor(data, span)
            inputs[tensor.name] = tensor
        elif field == _OUTPUT:
            tensor = _read_tensor(data, span)
            outputs[tensor.name] = tensor
        elif field == _INITIALIZER:
            weights |= {
                decode_text(data, part) for number, part in read_fields(data, span) if number == _INITIALIZER_NAME
            }
    required = {name: tensor for name, tensor in inputs.items() if name not in weights}
    defaults = {name: tensor for name, tensor in inputs.items() if name in weights}
    return GraphSignature(required, outputs, defaults)


def _read_tensor(data: Buffer, span: Span) -> GraphTensor:
    """Read a ValueInfoProto: name = 1, type = 2 (tensor type = 1: element type = 1, shape = 2)."""
    name = ""
    element, shape = 0, list[int | None]()
    for field, part in read_fields(data, span):
        if field == 1:
            name = decode_text(data, part)
        elif field == 2:
            tensors = [inner for number, inner in read_fields(data, part) if number == 1]
            for number, inner in read_fields(data, tensors[-1] if tensors else (0, 0)):
                if number == 1:
                    element = inner[0]
                elif number == 2:
                    shape = [_read_axis(data, axis) for kind, axis in read_fields(data, inner) if kind == 1]
    return GraphTensor(name, ELEMENT_TYPES.get(element, f"ONNX element type {element}"), tuple(shape))


def _read_axis(data: Buffer, span: Span) -> int | None:
    """Read a dimension: its size = 1, or a name = 2."""
    sizes = [part[0] for field, part in read_fields(data, span) if field == 1]
    return sizes[-1] if sizes else None
