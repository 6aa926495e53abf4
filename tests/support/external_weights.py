"""Graphs with their weights in a file beside them, as newer exporters write them, and in other places."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx

from tests.support.graph_readers import scaled_network

DATA = "model.onnx.data"


def save_apart(model: onnx.ModelProto, path: Path, location: str | None = None) -> Path:
    """Save a graph with its weights, but for the smallest, in `location`, relative to its folder."""
    name = location or f"{path.name}.data"
    (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
    saved = onnx.ModelProto()
    saved.CopyFrom(model)  # `onnx.save` changes the model.
    onnx.save(saved, str(path), save_as_external_data=True, location=name, size_threshold=80)
    return path


def move_apart(version: Path) -> Path:
    """Move the weights of a version's graph to a file beside it; the caller updates the record."""
    graph = version / "model.onnx"
    return save_apart(onnx.load(str(graph)), graph)


def change_location(graph: Path, location: str) -> Path:
    """Change the location of every weight of a graph; the file need not exist."""
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())
    return graph


def _escaping(folder: Path, location: str) -> Path:
    (folder / "model").mkdir()
    graph = save_apart(scaled_network(), folder / "model" / "model.onnx")
    shutil.copy(graph.parent / DATA, folder / "weights")
    return change_location(graph, location)


def _linked_out(folder: Path) -> Path:
    graph = _escaping(folder, DATA)
    (graph.parent / DATA).unlink()
    (graph.parent / DATA).symlink_to(folder / "weights")
    return graph


def _without(folder: Path) -> Path:
    graph = _escaping(folder, DATA)
    (graph.parent / DATA).unlink()
    return graph


def _cut_short(folder: Path) -> Path:
    graph = _escaping(folder, DATA)
    os.truncate(graph.parent / DATA, 10)
    return graph


def _pipe(folder: Path) -> Path:
    graph = _without(folder)
    os.mkfifo(graph.parent / DATA)
    return graph


def _link_without_data(folder: Path) -> Path:
    graph = _escaping(folder, DATA)
    (folder / "other").mkdir()
    (folder / "other" / "model.onnx").symlink_to(graph)
    return folder / "other" / "model.onnx"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "upwards": (lambda folder: _escaping(folder, "../weights"), r"'\.\./weights', expected a file in the graph's own"),
    "down and upwards": (
        lambda folder: _escaping(folder, "a/../../weights"),
        r"'a/\.\./\.\./weights', expected a file",
    ),
    "absolute": (lambda folder: _escaping(folder, str(folder / "weights")), "weights', expected a file in the graph's"),
    "of another system": (lambda folder: _escaping(folder, "..\\weights"), "expected a file in the graph's own folder"),
    "a drive": (lambda folder: _escaping(folder, "C:weights"), "'C:weights', expected a file in the graph's own"),
    "no name": (lambda folder: _escaping(folder, ""), "'', expected a file in the graph's own folder"),
    "a link out": (_linked_out, "a link out of the graph's folder"),
    "missing": (_without, r"model\.onnx\.data: missing, or no regular file; model\.onnx keeps weights there"),
    "cut short": (_cut_short, r"model\.onnx\.data: has 10 bytes, tensor '\w+' of model\.onnx needs"),
    "a pipe": (_pipe, r"model\.onnx\.data: missing, or no regular file"),
    "beside a link's target only": (_link_without_data, r"other/model\.onnx\.data: missing"),
}
"""Functions that make a graph in an empty folder, with a pattern of the error that refuses it."""


def in_hub(folder: Path) -> Path:
    """Return a graph in the cache of a model hub: a snapshot of links to files that are named by their hashes."""
    (folder / "blobs").mkdir(parents=True)
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    graph = save_apart(scaled_network(), folder / "blobs" / "model.onnx")
    graph.rename(folder / "blobs" / "1111")
    (folder / "blobs" / DATA).rename(folder / "blobs" / "2222")
    (snapshot / "model.onnx").symlink_to("../../blobs/1111")
    (snapshot / DATA).symlink_to("../../blobs/2222")
    return snapshot / "model.onnx"


def _beside(folder: Path) -> Path:
    return save_apart(scaled_network(), folder / "model.onnx")


def _link_within(folder: Path) -> Path:
    graph = _beside(folder)
    (folder / DATA).rename(folder / "blob")
    (folder / DATA).symlink_to("blob")
    return graph


def _hard_link(folder: Path) -> Path:
    graph = _beside(folder)
    os.link(folder / DATA, folder / "again")
    return graph


TAKEN: dict[str, Callable[[Path], Path]] = {
    "beside": _beside,
    "in a folder below": lambda folder: save_apart(scaled_network(), folder / "model.onnx", "weights/all.bin"),
    "with a leading dot": lambda folder: change_location(_beside(folder), f"./{DATA}"),
    "a link within": _link_within,
    "a hard link": _hard_link,
    "a hub's cache": in_hub,
}
"""Functions that make a graph which every command takes."""
