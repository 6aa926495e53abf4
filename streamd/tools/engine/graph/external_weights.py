"""The weights that a graph keeps in other files, put into its model, or copied beside it under plain names.

Where those files may lie is the repository's to judge (`repository/external.py`). The onnx package reads such weights
too, but refuses every link, also those of a hub's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from streamd.repository.files import copy_file


def find_external_tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor of a model whose bytes are in another file."""
    functions = [node for function in model.functions for node in function.node]
    for tensor in (*_tensors_of(model.graph), *_tensors_of_nodes(functions)):
        if tensor.data_location == tensor.EXTERNAL:
            yield tensor


def embed_weights(model: Any, files: Mapping[str, Path]) -> None:
    """Put the bytes of all external tensors into the model, in place; raises `ValueError` where some are missing.

    `files` are the data files by their path in the graph's folder.
    """
    for tensor in find_external_tensors(model):
        entries = _entries(tensor)
        size = int(entries.get("length") or _bytes_of(tensor))
        with files[_location(entries)].open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"tensor {tensor.name!r} has {len(content):,} bytes in its file, expected {size:,}")
        del tensor.external_data[:]
        tensor.data_location = tensor.DEFAULT
        tensor.raw_data = content


def copy_weights_beside(model: Any, files: Mapping[str, Path], graph: Path) -> None:
    """Copy the data files beside `graph` as `<graph>.data`, `<graph>.data2`, ..., and let the model name them so.

    A version vouches for plain files only, and their own names may be anything. Raises `RepositoryError`.
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


def _entries(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _location(entries: Mapping[str, str]) -> str:
    return str(PurePosixPath(entries.get("location", "")))


def _tensors_of(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of(graph)


def _bytes_of(tensor: Any) -> int:
    """The bytes of a tensor by its type and shape; raises `ValueError` for types that share bytes."""
    import onnx

    if onnx.TensorProto.DataType.Name(tensor.data_type) in ("UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2"):
        raise ValueError(f"tensor {tensor.name!r} does not say its length, expected one: several values share a byte")
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    count: int = math.prod(tensor.dims)
    return count * itemsize
