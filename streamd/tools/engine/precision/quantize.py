"""int8 by explicit Q/DQ nodes, calibrated on real windows by ONNX Runtime's quantizer.

Only products with constant weights are quantized; the rest stays float32 here and may become half precision after.
Which products can bear it is found by quantizing each alone and comparing.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx, name_nodes
from streamd.tools.engine.precision.half import QUANTIZERS
from streamd.tools.engine.precision.kept_nodes import KeptNodes
from streamd.tools.engine.precision.ranges import CalibrationWindows, open_session_with_outputs, split_into_batches

OPERATORS = ("MatMul", "Gemm", "Conv")
CALIBRATIONS = ("entropy", "minmax")
CALIBRATION_BATCH = 8

COMPARED_WINDOWS = 32
LARGEST_MOVE = 0.05
"""How far one quantized product may move an output, as a share of it; a sound one moves it by a tenth of that."""


class WindowReader:
    """Feeds windows to ONNX Runtime's calibrator, a batch at a time; what is collected is merged after each."""

    def __init__(self, windows: CalibrationWindows) -> None:
        self._windows = windows
        self._count = len(next(iter(windows.values())))
        self._next, self._end = 0, len(self)

    def __len__(self) -> int:
        return -(-self._count // CALIBRATION_BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only these batches next."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next batch by input name, or None."""
        if self._next >= min(self._end, len(self)):
            return None
        start = self._next * CALIBRATION_BATCH
        self._next += 1
        return {name: values[start : start + CALIBRATION_BATCH] for name, values in self._windows.items()}


class Quantizer:
    """Quantizes one folded graph; `left` says which products it left alone, and why."""

    def __init__(self, calibration: str = "entropy", per_channel: bool = True, limit: float = LARGEST_MOVE) -> None:
        self.calibration, self.per_channel, self.limit = calibration, per_channel, limit
        self.left: dict[str, str] = {}

    def quantize(
        self,
        model: OnnxModel,
        windows: CalibrationWindows,
        kept: KeptNodes,
        told: Callable[[int, int], None] | None = None,
    ) -> OnnxModel:
        """Return the graph with Q/DQ pairs, symmetric in activations and weights; raises `BuildError`.

        The nodes of `kept` are left alone, and so is each product that by itself moves an output too far.
        """
        self.left = _not_flat(model)
        quantized = _run_quantizer(model, windows, {*kept.names, *self.left}, self.calibration, self.per_channel)
        products = list_quantized_products(quantized)
        compared = next(split_into_batches(windows, COMPARED_WINDOWS))
        expected = _outputs(model, compared)
        for done, name in enumerate(products):
            alone = bypass_quantizers(quantized, set(products) - {name})
            moved = measure_movement(_outputs(alone, compared), expected)
            if not moved <= self.limit:
                self.left[name] = f"in int8, it alone moves an output by {moved:.1%}"
            if told:
                told(done + 1, len(products))
        if not products or set(products) <= set(self.left):
            raise BuildError(f"int8: no {', '.join(OPERATORS)} with constant weights can be quantized: {self.left}")
        return bypass_quantizers(quantized, set(self.left))


def list_quantized_products(model: OnnxModel) -> list[str]:
    """The nodes that read what a `DequantizeLinear` gives, but for quantizers."""
    given = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in model.graph.node if given.intersection(node.input)]
    return [node.name for node in readers if node.op_type not in QUANTIZERS]


def bypass_quantizers(model: OnnxModel, names: set[str]) -> OnnxModel:
    """Return a copy in which these nodes read what was quantized and not what came of it; unread pairs are gone."""
    copy = import_onnx().ModelProto()
    copy.CopyFrom(model)
    makers = {node.output[0]: node for node in copy.graph.node if node.op_type in QUANTIZERS}
    for node in copy.graph.node:
        if node.name in names:
            for position, name in enumerate(node.input):
                while name in makers:
                    name = makers[name].input[0]
                node.input[position] = name
    while unread := _unread_quantizers(copy):
        for node in unread:
            copy.graph.node.remove(node)
    return copy


def measure_movement(outputs: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> float:
    """How far outputs moved: the 99th percentile of the difference, as a share of the largest expected value.

    That value is each window's own, and where an output has axes between the second and the last, such as targets
    of different units, each of theirs.
    """
    worst = 0.0
    for found, wanted in zip(outputs, expected, strict=True):
        axes = tuple({1, wanted.ndim - 1} - {0})
        scale = np.abs(wanted).max(axis=axes, keepdims=True, initial=1e-30)
        worst = max(worst, float(np.quantile(np.abs(found - wanted) / scale, 0.99)))
    return worst


def _run_quantizer(
    model: OnnxModel, windows: CalibrationWindows, excluded: set[str], calibration: str, per_channel: bool
) -> OnnxModel:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    onnx = import_onnx()
    source = onnx.ModelProto()
    source.CopyFrom(model)
    add_pre_process_metadata(source)  # constants are folded; otherwise the quantizer asks for what was done
    method = {"entropy": CalibrationMethod.Entropy, "minmax": CalibrationMethod.MinMax}[calibration]
    with tempfile.TemporaryDirectory(prefix="streamd-quantize-") as folder:
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(source, str(given))
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints
                quantize_static(
                    str(given),
                    str(made),
                    WindowReader(windows),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(OPERATORS),
                    per_channel=per_channel,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=sorted(excluded),
                    calibrate_method=method,
                    extra_options=_OPTIONS,
                )
        except Exception as exc:  # the quantizer raises what its parts raise
            raise BuildError(f"int8: calibration failed: {exc}") from exc
        quantized = onnx.load(str(made))
    name_nodes(quantized)
    return quantized


def _not_flat(model: OnnxModel) -> dict[str, str]:
    """Products with weights of more than two axes, for which there is no int8 kernel with a scale a channel."""
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    deep = [node for node in model.graph.node if node.op_type == "MatMul" and axes.get(node.input[1], 0) > 2]
    return {node.name: f"its weights have {axes[node.input[1]]} axes" for node in deep}


def _outputs(model: OnnxModel, windows: CalibrationWindows) -> list[npt.NDArray[Any]]:
    names = [output.name for output in model.graph.output]
    found: list[npt.NDArray[Any]] = open_session_with_outputs(model, names).run(names, dict(windows))
    return found


def _unread_quantizers(model: OnnxModel) -> list[Any]:
    read = {name for node in model.graph.node for name in node.input}
    read.update(output.name for output in model.graph.output)
    return [node for node in model.graph.node if node.op_type in QUANTIZERS and node.output[0] not in read]


_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # TensorRT quantizes constant weights itself and refuses quantized biases.
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    # Attention's products of two activations gain little and lose most.
    "MatMulConstBOnly": True,
    "OpTypesToExcludeOutputQuantization": list(OPERATORS),
    # Merges what was collected after each batch: memory stays bounded whatever the number of windows.
    "CalibStridedMinMax": 1,
}
