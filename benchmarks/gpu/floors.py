"""The two lower bounds of a forecast's time: its bytes over PCIe, and its operations on the tensor cores.

Operations are counted from the shapes that the graph's products have in ONNX Runtime: MatMul, Gemm, Conv and LSTM, two
for each multiply-add. Not counted: element-wise work, softmax, normalization, and bytes in the GPU's own memory.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.windows import make_windows
from streamd.core.contract import ModelContract
from streamd.inference import cuda
from streamd.inference.cuda import DeviceBuffer, Event, HostBuffer, Stream
from streamd.repository.versions import EngineVersion

COPY_BYTES = 64 * 2**20
REPEATS = 12
Shapes = dict[str, tuple[int, ...]]


def count_bytes(contract: ModelContract) -> dict[str, int]:
    """Count the bytes that cross PCIe for one window: all inputs, and the forecast."""
    cells = sum(int(np.prod(shape)) for shape in contract.input_shapes.values())
    return {"to_device": 4 * cells, "to_host": 4 * int(np.prod(contract.output_shape))}


def count_operations(version: EngineVersion, batch: int = 8) -> dict[str, float]:
    """Count the floating-point operations of the graph's products for one window, by operator."""
    import onnx

    model = onnx.load(str(version.onnx))
    products = [node for node in model.graph.node if node.op_type in _COUNTS]
    shapes = _find_shapes(model, version, products, batch)
    found: dict[str, float] = {}
    for node in products:
        found[node.op_type] = found.get(node.op_type, 0.0) + _COUNTS[node.op_type](node, shapes) / batch
    return found


def _find_shapes(model: Any, version: EngineVersion, nodes: Sequence[Any], batch: int) -> Shapes:
    """Find the shapes of the inputs and outputs of these nodes by running the graph."""
    import onnx
    import onnxruntime

    constants = {each.name: tuple(each.dims) for each in model.graph.initializer}
    given = {each.name for each in model.graph.input}
    names = {name for node in nodes for name in (*node.input, *node.output) if name}
    requested = sorted(names - set(constants) - given - {each.name for each in model.graph.output})
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in requested)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Not optimized, because the inner values of a fused node cannot be outputs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = make_windows(version.contract, batch).view_first(batch)
    outputs = [each.name for each in session.get_outputs()]
    values = session.run(outputs, feed)
    found = {name: tuple(np.shape(value)) for name, value in zip(outputs, values, strict=True)}
    return {**constants, **{name: tuple(value.shape) for name, value in feed.items()}, **found}


def _count_matmul(node: Any, shapes: Shapes) -> float:
    return 2.0 * float(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]


def _count_gemm(node: Any, shapes: Shapes) -> float:
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    inner = shapes[node.input[0]][0 if transposed else 1]
    return 2.0 * float(np.prod(shapes[node.output[0]])) * inner


def _count_conv(node: Any, shapes: Shapes) -> float:
    return 2.0 * float(np.prod(shapes[node.output[0]])) * float(np.prod(shapes[node.input[1]][1:]))


def _count_lstm(node: Any, shapes: Shapes) -> float:
    steps, batch, _ = shapes[node.input[0]]
    weights = np.prod(shapes[node.input[1]]) + np.prod(shapes[node.input[2]])
    return 2.0 * steps * batch * float(weights)


_COUNTS = {"MatMul": _count_matmul, "Gemm": _count_gemm, "Conv": _count_conv, "LSTM": _count_lstm}


# ---------------------------------------------------------------- copies
def measure_pcie(contract: ModelContract) -> dict[str, float]:
    """Measure pinned copies of this thread's device, in bytes a second: each direction alone, and both at once.

    At once, both have the same shares as in a forecast.
    """
    each = count_bytes(contract)
    share = each["to_host"] / each["to_device"]
    sizes = {"to_device": COPY_BYTES, "to_host": int(COPY_BYTES * share)}
    with _Copier("to_device", sizes["to_device"]) as there, _Copier("to_host", sizes["to_host"]) as back:
        found = {copier.way: copier.measure_alone() for copier in (there, back)}
        for copier in (there, back):
            copier.enqueue(1)
            copier.stream.synchronize()
        began = time.perf_counter()
        for _ in range(REPEATS):
            there.enqueue(1)
            back.enqueue(1)
        there.stream.synchronize()
        back.stream.synchronize()
        seconds = time.perf_counter() - began
    found["both_at_once"] = REPEATS * sum(sizes.values()) / seconds
    return found


class _Copier:
    """The buffers and the stream of one direction."""

    def __init__(self, way: str, nbytes: int) -> None:
        self.way = way
        self.nbytes = nbytes
        self.stream = Stream()
        self._host, self._device = HostBuffer(nbytes), DeviceBuffer(nbytes)
        self._array = self._host.array(np.uint8, (nbytes,))
        self._array[:] = np.random.default_rng(1).integers(0, 255, nbytes, dtype=np.uint8)
        self._marks = [Event(timing=True), Event(timing=True)]

    def enqueue(self, times: int) -> None:
        """Enqueue copies on the stream."""
        for _ in range(times):
            if self.way == "to_device":
                cuda.copy_to_device(self._device.pointer, self._array, self.nbytes, self.stream)
            else:
                cuda.copy_to_host(self._array, self._device.pointer, self.nbytes, self.stream)

    def measure_alone(self) -> float:
        """Measure bytes a second by the device's own clock."""
        self.enqueue(2)
        self._marks[0].record(self.stream)
        self.enqueue(REPEATS)
        self._marks[1].record(self.stream)
        self.stream.synchronize()
        return REPEATS * self.nbytes / (self._marks[1].elapsed_ms(self._marks[0]) / 1e3)

    def __enter__(self) -> "_Copier":
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._marks, self._device, self._host, self.stream):
            each.close()


def read_matmul_tflops(folder: Path) -> dict[str, float]:
    """Read the rates that `benchmarks.gpu.pytorch` measured, if its result is in the same folder."""
    path = folder / "pytorch.json"
    if not path.is_file():
        return {}
    ceilings: dict[str, float] = json.loads(path.read_text()).get("ceilings", {})
    return {name: value for name, value in ceilings.items() if name.startswith("matmul")}
