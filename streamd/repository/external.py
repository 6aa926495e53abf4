"""Finds the files in which a graph keeps weights (ONNX's external data), and checks that they are complete.

Newer exporters write `model.onnx.data` beside `model.onnx`. A graph may name any path there, so only files in the
graph's own folder are read. The cache of a model hub is such a folder too: its links lead to files beside each other.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular
from streamd.repository.protobuf import Buffer, Span, decode_text, read_fields

MAX_GRAPH_DEPTH = 64
"""The limit of graphs within graphs (`If`, `Loop`); a file that nests deeper is refused."""

_EXTERNAL = 1  # TensorProto.DataLocation
_DATA, _LOCATION, _TENSOR_NAME = 13, 14, 8  # in TensorProto
_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25  # in ModelProto
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15  # in GraphProto
_FUNCTION_NODE = 7  # in FunctionProto
_ATTRIBUTE = 5  # in NodeProto
_TENSORS, _GRAPHS, _SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)  # in AttributeProto


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose bytes are in another file; `length` is `None` if the graph does not state it."""

    name: str
    location: str
    offset: int = 0
    length: int | None = None


def find_data_files(graph: Path, *, allow_other_formats: bool = False) -> Mapping[str, Path]:
    """Return the files in which a graph keeps weights, by their path in its folder; each is long enough.

    Raises `RepositoryError` if a data file is missing, too short, or outside the folder, or if the graph is no ONNX
    model. With `allow_other_formats` such a graph has no data files; the runtime that loads it gives the error.
    """
    found: dict[str, Path] = {}
    try:
        stored = _read_stored(graph)
    except ValueError as exc:  # by `mmap` for an empty file, else by the parser
        if allow_other_formats:
            return found
        raise RepositoryError(f"{graph}: not an ONNX model ({exc}); export the model to ONNX again") from exc
    for tensor in stored:
        file = _locate_file(graph, tensor)
        found[str(PurePosixPath(tensor.location))] = file
        end, size = tensor.offset + (tensor.length or 0), file.stat().st_size
        if end > size:
            raise RepositoryError(
                f"{file}: has {size:,} bytes, tensor {tensor.name!r} of {graph.name} needs {end:,}; copy it again"
            )
    return found


def list_data_locations(graph: Path) -> tuple[str, ...]:
    """Return the files in which a graph keeps weights, as it names them; raises `RepositoryError`.

    A file that is no ONNX model has none; the runtime that loads it gives the error.
    """
    try:
        return tuple(dict.fromkeys(tensor.location for tensor in _read_stored(graph)))
    except ValueError:
        return ()


def count_model_bytes(graph: Path) -> int:
    """Return the size in bytes of an ONNX model with all of its weights.

    Raises `ValueError` if the file is no ONNX model, and `RepositoryError` if it cannot be read.
    """
    return graph.stat().st_size + sum(tensor.length or 0 for tensor in _read_stored(graph))


def _read_stored(graph: Path) -> tuple[StoredTensor, ...]:
    """Return every tensor whose bytes are in another file; raises as `count_model_bytes`."""
    try:
        with open_regular(graph) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(_list_of_model(data))
    except OSError as exc:
        raise RepositoryError(f"{graph}: cannot be read: {exc.strerror or exc}") from exc


def _locate_file(graph: Path, tensor: StoredTensor) -> Path:
    """Return the file of a tensor; raises `RepositoryError` if it is not in the graph's folder."""
    location = tensor.location
    where = f"{graph}: tensor {tensor.name!r} is kept in {location!r}"
    windows = PureWindowsPath(location)  # it also sees what is absolute or leads upwards only on Windows
    if not location or "\x00" in location or windows.drive or windows.root or ".." in windows.parts:
        raise RepositoryError(f"{where}, expected a file in the graph's own folder; export the model again")
    file = graph.parent / location
    try:
        if not file.is_file():
            raise RepositoryError(f"{file}: missing, or no regular file; {graph.name} keeps weights there: copy it too")
        folders = (graph.parent.resolve(), graph.resolve().parent)
        if not any(file.resolve().is_relative_to(folder) for folder in folders):
            raise RepositoryError(f"{where}, a link out of the graph's folder; put the file itself there")
    except (OSError, RuntimeError) as exc:  # before Python 3.13 a link to itself is a RuntimeError
        raise RepositoryError(f"{file}: cannot be read: {exc}") from exc
    return file


# ---------------------------------------------------------------- the file's format
def _list_of_model(data: Buffer) -> Iterator[StoredTensor]:
    for field, span in read_fields(data, (0, len(data))):
        if field == _GRAPH:
            yield from _list_of_graph(data, span, 0)
        elif field == _TRAINING:  # an initialization and an algorithm, both graphs
            for _, part in _select_fields(data, span, (1, 2)):
                yield from _list_of_graph(data, part, 0)
        elif field == _FUNCTIONS:
            for _, part in _select_fields(data, span, (_FUNCTION_NODE,)):
                yield from _list_of_node(data, part, 0)


def _list_of_graph(data: Buffer, span: Span, depth: int) -> Iterator[StoredTensor]:
    if depth > MAX_GRAPH_DEPTH:
        raise ValueError(f"its graphs nest more than {MAX_GRAPH_DEPTH} deep")
    for field, part in _select_fields(data, span, (_NODE, _INITIALIZER, _SPARSE_INITIALIZER)):
        if field == _NODE:
            yield from _list_of_node(data, part, depth)
        elif field == _INITIALIZER:
            yield from _list_of_tensor(data, part)
        else:
            yield from _list_of_sparse(data, part)


def _list_of_node(data: Buffer, span: Span, depth: int) -> Iterator[StoredTensor]:
    for _, attribute in _select_fields(data, span, (_ATTRIBUTE,)):
        for field, part in _select_fields(data, attribute, (*_TENSORS, *_GRAPHS, *_SPARSE_TENSORS)):
            if field in _TENSORS:
                yield from _list_of_tensor(data, part)
            elif field in _GRAPHS:
                yield from _list_of_graph(data, part, depth + 1)
            else:
                yield from _list_of_sparse(data, part)


def _list_of_sparse(data: Buffer, span: Span) -> Iterator[StoredTensor]:
    for _, part in _select_fields(data, span, (1, 2)):  # values and indices
        yield from _list_of_tensor(data, part)


def _list_of_tensor(data: Buffer, span: Span) -> Iterator[StoredTensor]:
    """Yield the tensor if it is external, once for each location that it names: readers differ in which they use."""
    name, is_external = "", False
    entries: list[tuple[str, str]] = []
    for field, part in read_fields(data, span):
        if field == _TENSOR_NAME:
            name = decode_text(data, part)
        elif field == _LOCATION:
            is_external = part[0] == _EXTERNAL
        elif field == _DATA:
            pair = {number: decode_text(data, inner) for number, inner in read_fields(data, part)}
            entries.append((pair.get(1, ""), pair.get(2, "")))
    if is_external:
        values = dict(entries)
        length = int(values["length"]) if values.get("length") else None
        offset = int(values.get("offset") or 0)
        if offset < 0 or (length or 0) < 0:
            raise ValueError(f"tensor {name!r} is {length} bytes at {offset}")
        for location in [value for key, value in entries if key == "location"] or [""]:
            yield StoredTensor(name, location, offset, length)


def _select_fields(data: Buffer, span: Span, numbers: tuple[int, ...]) -> Iterator[tuple[int, Span]]:
    """Yield the fields of a message that have one of these numbers."""
    return (each for each in read_fields(data, span) if each[0] in numbers)
