"""Loads the weights that a graph keeps in other files, or copies these files beside it under plain names.

This module does not decide where such files may be; `repository/external.py` does. The onnx package can read them too,
but it refuses every link, and the cache of a model hub consists of links.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from streamd.repository.files import copy_file


def find_external_tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor of a model whose bytes are in another file."""
    functions = [node for function in model.functions for node in function.node]
    for tensor in (*_walk_tensors(model.graph), *_walk_tensors_of_nodes(functions)):
        if tensor.data_location == tensor.EXTERNAL:
            yield tensor


def embed_weights(model: Any, files: Mapping[str, Path]) -> None:
    """Put the bytes of all external tensors into the model, in place.

    `files` are the data files by their path in the graph's folder. Raises `ValueError` if a file has too few bytes.
    """
    for tensor in find_external_tensors(model):
        entries = _read_entries(tensor)
        size = int(entries.get("length") or _compute_bytes(tensor))
        with files[_read_location(entries)].open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"tensor {tensor.name!r} has {len(content):,} bytes in its file, expected {size:,}")
        del tensor.external_data[:]
        tensor.data_location = tensor.DEFAULT
        tensor.raw_data = content


def copy_weights_beside(model: Any, files: Mapping[str, Path], graph: Path) -> None:
    """Copy the data files beside `graph` as `<graph>.data`, `<graph>.data2`, ..., and put these names into the model.

    The record of a version has hashes of plain files in its folder only, but the given names may be any paths. Raises
    `RepositoryError`.
    """
    names = {
        location: f"{graph.name}.data{number if number > 1 else ''}" for number, location in enumerate(sorted(files), 1)
    }
    for location, name in names.items():
        copy_file(files[location], graph.with_name(name))
    for tensor in find_external_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[str(PurePosixPath(entry.value))]


def _read_entries(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _read_location(entries: Mapping[str, str]) -> str:
    return str(PurePosixPath(entries.get("location", "")))


def _walk_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _walk_tensors_of_nodes(graph.node)


def _walk_tensors_of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk_tensors(graph)


def _compute_bytes(tensor: Any) -> int:
    """Return the bytes of a tensor, from its type and shape; raises `ValueError` for types that share bytes."""
    import onnx

    if onnx.TensorProto.DataType.Name(tensor.data_type) in ("UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2"):
        raise ValueError(f"tensor {tensor.name!r} has no length, expected one, because several values share a byte")
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    count: int = math.prod(tensor.dims)
    return count * itemsize
