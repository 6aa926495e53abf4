"""Small networks as ONNX files, and a runner that needs no library."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamd.inference.runner import Array, Arrays, TensorSpec

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

WEIGHTS = np.array([[1, 0, 2], [0, 1, 0], [3, 0, 0], [0, -1, 1]], np.float32)


def value(name: str, *shape: int | str, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **weights: Any) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def linear(folder: Path, scale: float = 1.0, name: str = "linear.onnx") -> Path:
    """`y = scale * x @ WEIGHTS`, four numbers to three."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return save(folder / name, nodes, [value("x", "batch", 4)], [value("y", "batch", 3)], w=WEIGHTS * np.float32(scale))


def two_inputs(folder: Path) -> Path:
    """`y = a + float(b)` and its largest element's place: floats and int64 in, floats and int64 out."""
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=FLOAT),
        helper.make_node("Add", ["a", "c"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["place"], axis=1, keepdims=0),
    ]
    given = [value("a", "batch", 5), value("b", "batch", 5, kind=INT64)]
    return save(folder / "two.onnx", nodes, given, [value("y", "batch", 5), value("place", "batch", kind=INT64)])


def shifted(folder: Path, name: str = "shifted.onnx") -> Path:
    """`y = x + shift`, where the shift may be left out: then it is 5; a weight of 0 is an input too."""
    nodes = [helper.make_node("Add", ["x", "shift"], ["s"]), helper.make_node("Add", ["s", "w"], ["y"])]
    given = [value("x", "batch", 2), value("shift", "batch", 2), value("w", 2)]
    made = [value("y", "batch", 2)]
    return save(folder / name, nodes, given, made, shift=np.full((1, 2), 5, np.float32), w=np.zeros(2, np.float32))


def pointwise(folder: Path, *shape: int) -> Path:
    """`y = 2 x + 1`, whatever the window."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["d"]), helper.make_node("Add", ["d", "one"], ["y"])]
    two, one = np.float32(2), np.float32(1)
    given, made = [value("x", "batch", *shape)], [value("y", "batch", *shape)]
    return save(folder / "pointwise.onnx", nodes, given, made, two=two, one=one)


def centred(folder: Path, channels: int, length: int) -> Path:
    """`y = x - mean(x)` over the window, so that it matters which windows cover an element."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2]), helper.make_node("Sub", ["x", "m"], ["y"])]
    shape = ("batch", channels, length)
    return save(folder / "centred.onnx", nodes, [value("x", *shape)], [value("y", *shape)])


def halved(folder: Path, length: int) -> Path:
    """The mean of each two neighbours; and one number for a whole window."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2], strides=[2]),
        helper.make_node("GlobalAveragePool", ["x"], ["g"]),
    ]
    made = [value("y", "batch", 1, length // 2), value("g", "batch", 1, 1)]
    return save(folder / "halved.onnx", nodes, [value("x", "batch", 1, length)], made)


class ScriptedRunner:
    """`y = 2 x` by a runner that keeps what it ran; `script` is called with each batch's number and rows."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", np.dtype(np.float32), (2,)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", np.dtype(np.float32), (2,)),)
    device = "none"

    def __init__(
        self,
        buckets: tuple[int, ...] = (4,),
        pads: bool = False,
        script: Callable[[int, Array], None] = lambda number, rows: None,
        name: str = "scripted",
    ) -> None:
        self.name, self.buckets, self.pads, self.script = name, buckets, pads, script
        self.sizes: list[int] = []
        self.closed = 0
        self._busy = threading.Lock()

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        assert self._busy.acquire(blocking=False), "one owner at a time"
        try:
            rows = feeds["x"]
            assert 0 < len(rows) <= self.buckets[-1]
            assert not self.closed
            self.sizes.append(len(rows))
            self.script(len(self.sizes) - 1, rows)
            return {"y": rows * 2}
        finally:
            self._busy.release()

    def close(self) -> None:
        self.closed += 1
