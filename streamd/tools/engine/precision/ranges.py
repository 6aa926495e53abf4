"""Which tensors do not fit half precision: found by running the float32 graph on real windows and comparing.

ONNX Runtime gives every intermediate tensor, some of them at a time, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.tools.engine.graph.onnx_graph import OnnxModel, import_onnx, infer_element_types, serialize_graph
from streamd.tools.engine.precision.half import FLOAT, FLOAT16, round_to

FLOAT16_MAX = float(np.finfo(np.float16).max)
MARGIN = 4.0
"""A tensor that comes within this factor of float16's largest value stays in float32: other windows are larger."""

LARGEST_LOSS = 0.01
"""What rounding may take from a window's tensor, as a share of its norm; only subnormal values lose so much."""

IMMATERIAL = 1e-3
"""A window whose norm is below this share of the largest window's adds nothing that a loss could matter to."""

BATCH = 8
BUDGET_BYTES = 256 * 2**20

CalibrationWindows = Mapping[str, npt.NDArray[Any]]
"""Inputs by name, each `(windows, ...)`."""


class RangeFinder:
    """Compares each tensor with itself after rounding to half precision; `misfits` says what was found."""

    def __init__(self, element: int = FLOAT16, budget_bytes: int = BUDGET_BYTES) -> None:
        self.element = element
        self.budget_bytes = budget_bytes
        self.misfits: dict[str, str] = {}

    def find(
        self, model: OnnxModel, windows: CalibrationWindows, told: Callable[[int, int], None] | None = None
    ) -> dict[str, str]:
        """Return what does not fit, tensor to reason; `told(done, total)` after each run."""
        self.misfits = {}
        for tensor in model.graph.initializer:
            if tensor.data_type == FLOAT:
                self._weigh(tensor.name, import_onnx().numpy_helper.to_array(tensor)[None])
        groups = self._groups(model, windows)
        count = len(next(iter(windows.values())))
        total, done = len(groups) * -(-count // BATCH), 0
        for names in groups:
            session = open_session_with_outputs(model, names)
            for batch in split_into_batches(windows, BATCH):
                for name, values in zip(names, session.run(names, dict(batch)), strict=True):
                    self._weigh(name, values)
                done += 1
                if told:
                    told(done, total)
        return self.misfits

    def _weigh(self, name: str, values: npt.NDArray[np.float32]) -> None:
        if name in self.misfits or not values.size:
            return
        rows = np.nan_to_num(values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1), nan=0.0)
        largest = float(np.abs(rows).max())
        if self.element == FLOAT16 and not largest * MARGIN <= FLOAT16_MAX:
            self.misfits[name] = f"reaches {largest:.3g}; float16 holds {FLOAT16_MAX:.0f}"
            return
        norm = np.linalg.norm(rows.astype(np.float64), axis=1)
        lost = np.linalg.norm(rows.astype(np.float64) - round_to(rows, self.element), axis=1)
        worst = float((lost / np.maximum(norm, max(IMMATERIAL * norm.max(), 1e-300))).max())
        if worst > LARGEST_LOSS:
            self.misfits[name] = f"loses {worst:.1%} to rounding; its largest value is {largest:.3g}"

    def _groups(self, model: OnnxModel, windows: CalibrationWindows) -> list[list[str]]:
        """Tensors in groups that one run can give within the budget, by their sizes for one window."""
        types = infer_element_types(model)
        given = {value.name for value in model.graph.input}
        names = [n for node in model.graph.node for n in node.output if types.get(n) == FLOAT and n not in given]
        first = {name: values[:1] for name, values in windows.items()}
        rows = min(BATCH, len(next(iter(windows.values()))))
        groups: list[list[str]] = [[]]
        room = self.budget_bytes
        for name, values in zip(names, open_session_with_outputs(model, names).run(names, first), strict=True):
            size = values.nbytes * rows
            if groups[-1] and size > room:
                groups.append([])
                room = self.budget_bytes
            groups[-1].append(name)
            room -= size
        return groups if names else []


def open_session_with_outputs(model: OnnxModel, names: list[str]) -> Any:
    """An ONNX Runtime session on the CPU that gives these tensors, intermediate or not."""
    import onnxruntime

    onnx = import_onnx()
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    there = {output.name for output in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(
        serialize_graph(wider, "a graph to compare"), options, providers=["CPUExecutionProvider"]
    )


def split_into_batches(windows: CalibrationWindows, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The windows, so many at a time."""
    count = len(next(iter(windows.values())))
    for start in range(0, count, size):
        yield {name: values[start : start + size] for name, values in windows.items()}
