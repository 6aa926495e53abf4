"""One float32 graph into graphs of lower precision: for plans to be built from, and for ONNX Runtime as they are.

What half precision cannot hold and what quantizing would ruin is found once, on real windows, and then used again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.norms import write_out_norms
from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants
from streamd.tools.engine.precision.half import FLOAT16
from streamd.tools.engine.precision.kept_nodes import SENSITIVE_OPERATORS, KeptNodes, choose_kept_nodes, convert_to_half
from streamd.tools.engine.precision.quantize import LARGEST_MOVE, Quantizer
from streamd.tools.engine.precision.ranges import CalibrationWindows
from streamd.tools.engine.progress import Progress

COMPARED_WINDOWS = 256
"""How many windows decide what fits half precision: each is run once for every group of tensors."""


@dataclass(frozen=True)
class PrecisionOptions:
    """How graphs of lower precision are made.

    windows: for calibration and for comparing, or None; typed: feed TensorRT's builder graphs that carry their own
    types (True), float32 graphs and flags (False), or the first of these that it takes (None); largest_move: how far
    one product in int8 may move an output.
    """

    windows: CalibrationWindows | None = None
    calibration: str = "entropy"
    per_channel: bool = True
    typed: bool | None = None
    sensitive_operators: frozenset[str] = SENSITIVE_OPERATORS
    largest_move: float = LARGEST_MOVE


@dataclass(frozen=True)
class MadeGraph:
    """A graph that says its own precision, and what stayed in float32."""

    precision: str
    model: OnnxModel
    kept: KeptNodes
    seconds: float


class GraphMaker:
    """Makes graphs of one float32 graph; `note` gets what is worth saying and keeping."""

    def __init__(
        self,
        model: OnnxModel,
        options: PrecisionOptions,
        progress: Progress | None = None,
        note: Callable[[str], None] | None = None,
        *,
        norms_written_out: bool = False,
    ) -> None:
        self.options = options
        self._given, self._norms_written_out = model, norms_written_out
        self.progress = progress or Progress(quiet=True)
        self._note = note or self.progress.line
        self._kept: dict[int, KeptNodes] = {}

    @cached_property
    def model(self) -> OnnxModel:
        """The float32 graph with constants folded: what all others are made of."""
        folded = fold_constants(self._given)
        return write_out_norms(folded) if self._norms_written_out else folded

    def make(self, precision: str) -> MadeGraph:
        """The graph of a precision for ONNX Runtime, in float32 the given one itself; raises `BuildError`."""
        began = time.monotonic()
        if precision == "fp32":
            model, kept = self._given, KeptNodes()
        elif precision == "fp16":
            kept = self.keep(FLOAT16)
            model = convert_to_half(self.model, kept)
        elif precision == "int8":
            model, kept = self.quantized(self.keep(FLOAT16))
        else:
            raise BuildError(f"{precision}: ONNX Runtime has no kernels for it; expected fp32, fp16 or int8")
        return MadeGraph(precision, model, kept, time.monotonic() - began)

    def keep(self, element: int) -> KeptNodes:
        """The nodes to keep in float32 beside a type of half precision; found once."""
        if element not in self._kept:
            windows = self.options.windows
            compared = None if windows is None else {name: array[:COMPARED_WINDOWS] for name, array in windows.items()}
            if compared is None:
                self._note("no --calibration-data: what overflows half precision is not looked for")
            with self.progress.job("comparing with half precision", 0) as job:
                operators = self.options.sensitive_operators
                self._kept[element] = choose_kept_nodes(self.model, compared, element, operators=operators, told=job.to)
        return self._kept[element]

    def quantized(self, kept: KeptNodes) -> tuple[OnnxModel, KeptNodes]:
        """The graph with Q/DQ pairs, and what is kept in float32 or merely not quantized."""
        windows = self.options.windows
        if windows is None:
            raise BuildError("int8: needs real windows: give --calibration-data")
        count = len(next(iter(windows.values())))
        self._note(f"int8: calibrating on {count} windows ({self.options.calibration})")
        quantizer = Quantizer(self.options.calibration, self.options.per_channel, self.options.largest_move)
        with self.progress.job("int8: comparing each product", 0) as job:
            model = quantizer.quantize(self.model, windows, kept, told=job.to)
        return model, KeptNodes(kept.reasons, quantizer.left)
