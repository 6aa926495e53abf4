"""Quantizes a graph to int8 with explicit Q/DQ nodes, calibrated on real windows by ONNX Runtime's quantizer.

Only products with constant weights are quantized; this module leaves all else in float32. A product stays quantized if
it moves the outputs little when it alone is quantized.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.errors import BuildError
from streamd.tools.engine.flags import LARGEST_MOVE
from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx, name_nodes
from streamd.tools.engine.precision.half import QUANTIZERS
from streamd.tools.engine.precision.kept_nodes import KeptNodes
from streamd.tools.engine.precision.ranges import CalibrationWindows, open_session_with_outputs, split_into_batches

OPERATORS = ("MatMul", "Gemm", "Conv")
CALIBRATION_BATCH = 8

MOVEMENT_WINDOWS = 32
"""Number of windows on which each quantized product is compared: the graph runs once for each product."""


class CalibrationReader:
    """Gives windows to ONNX Runtime's calibrator in batches; the calibrator merges its statistics after each."""

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
        """Return the next batch by input name, or `None` after the last."""
        if self._next >= min(self._end, len(self)):
            return None
        start = self._next * CALIBRATION_BATCH
        self._next += 1
        return {name: values[start : start + CALIBRATION_BATCH] for name, values in self._windows.items()}


class Quantizer:
    """Quantizes one folded graph. `calibration` is one of `flags.CALIBRATIONS`."""

    def __init__(
        self, calibration: str = "entropy", *, per_channel: bool = True, largest_move: float = LARGEST_MOVE
    ) -> None:
        self.calibration, self.per_channel, self.largest_move = calibration, per_channel, largest_move
        self.not_quantized: dict[str, str] = {}
        """The products that stayed in float32 in the last graph, with the reasons."""

    def quantize(
        self,
        model: OnnxModel,
        windows: CalibrationWindows,
        kept: KeptNodes,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> OnnxModel:
        """Return the graph with Q/DQ pairs, symmetric in activations and weights; raises `BuildError`.

        The nodes of `kept` are not quantized, nor is a product that alone moves an output by more than `largest_move`.
        `on_progress(done, total)` is called after each product.
        """
        self.not_quantized = _find_deep_products(model)
        excluded = {*kept.names, *self.not_quantized}
        quantized = _run_quantizer(model, windows, excluded, self.calibration, per_channel=self.per_channel)
        products = list_quantized_products(quantized)
        compared = next(split_into_batches(windows, MOVEMENT_WINDOWS))
        expected = _run_model(model, compared)
        for done, name in enumerate(products):
            alone = bypass_quantizers(quantized, set(products) - {name})
            moved = measure_movement(_run_model(alone, compared), expected)
            if not moved <= self.largest_move:
                self.not_quantized[name] = f"in int8, it alone moves an output by {moved:.1%}"
            if on_progress:
                on_progress(done + 1, len(products))
        if not products or set(products) <= set(self.not_quantized):
            operators = ", ".join(OPERATORS)
            raise BuildError(f"int8: no {operators} with constant weights can be quantized: {self.not_quantized}")
        return bypass_quantizers(quantized, set(self.not_quantized))


def list_quantized_products(model: OnnxModel) -> list[str]:
    """Return the nodes that read the output of a `DequantizeLinear`, except quantizers."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in model.graph.node if dequantized.intersection(node.input)]
    return [node.name for node in readers if node.op_type not in QUANTIZERS]


def bypass_quantizers(model: OnnxModel, names: set[str]) -> OnnxModel:
    """Return a copy in which these nodes read the original tensors; quantizers without a reader are removed."""
    copy = import_onnx().ModelProto()
    copy.CopyFrom(model)
    makers = {node.output[0]: node for node in copy.graph.node if node.op_type in QUANTIZERS}
    for node in copy.graph.node:
        if node.name in names:
            for position, name in enumerate(node.input):
                while name in makers:
                    name = makers[name].input[0]
                node.input[position] = name
    while unread := _find_unread_quantizers(copy):
        for node in unread:
            copy.graph.node.remove(node)
    return copy


def measure_movement(outputs: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> float:
    """Return how far outputs moved: the 99th percentile of the difference, as a share of the largest expected value.

    The largest value is taken for each window and, if an output has axes between the second and the last (targets of
    different units), for each of these.
    """
    worst = 0.0
    for found, reference in zip(outputs, expected, strict=True):
        axes = tuple({1, reference.ndim - 1} - {0})
        scale = np.abs(reference).max(axis=axes, keepdims=True, initial=1e-30)
        worst = max(worst, float(np.quantile(np.abs(found - reference) / scale, 0.99)))
    return worst


def _run_quantizer(
    model: OnnxModel, windows: CalibrationWindows, excluded: set[str], calibration: str, *, per_channel: bool
) -> OnnxModel:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    onnx = import_onnx()
    source = onnx.ModelProto()
    source.CopyFrom(model)
    add_pre_process_metadata(source)  # The constants are folded; without this mark, the quantizer asks for it.
    method = {"entropy": CalibrationMethod.Entropy, "minmax": CalibrationMethod.MinMax}[calibration]
    with tempfile.TemporaryDirectory(prefix="streamd-quantize-") as folder:
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(source, str(given))
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # The quantizer prints.
                quantize_static(
                    str(given),
                    str(made),
                    CalibrationReader(windows),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(OPERATORS),
                    per_channel=per_channel,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=sorted(excluded),
                    calibrate_method=method,
                    extra_options=_OPTIONS,
                )
        except Exception as exc:  # The quantizer's errors have no common class.
            raise BuildError(f"int8: calibration failed: {exc}") from exc
        quantized = onnx.load(str(made))
    name_nodes(quantized)
    return quantized


def _find_deep_products(model: OnnxModel) -> dict[str, str]:
    """Return products whose weights have more than two axes; no int8 kernel has a scale for each channel of these."""
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    deep = [node for node in model.graph.node if node.op_type == "MatMul" and axes.get(node.input[1], 0) > 2]
    return {node.name: f"its weights have {axes[node.input[1]]} axes" for node in deep}


def _run_model(model: OnnxModel, windows: CalibrationWindows) -> list[npt.NDArray[Any]]:
    names = [output.name for output in model.graph.output]
    found: list[npt.NDArray[Any]] = open_session_with_outputs(model, names).run(names, dict(windows))
    return found


def _find_unread_quantizers(model: OnnxModel) -> list[Any]:
    read = {name for node in model.graph.node for name in node.input}
    read.update(output.name for output in model.graph.output)
    return [node for node in model.graph.node if node.op_type in QUANTIZERS and node.output[0] not in read]


_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # TensorRT quantizes constant weights itself, and it refuses quantized biases.
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    # The products of two activations in attention gain little speed and lose the most accuracy.
    "MatMulConstBOnly": True,
    "OpTypesToExcludeOutputQuantization": list(OPERATORS),
    # Statistics are merged after each batch, so that memory does not grow with the number of windows.
    "CalibStridedMinMax": 1,
}
