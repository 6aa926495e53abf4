"""Makes graphs of lower precision from one float32 graph, for TensorRT plans and for ONNX Runtime.

Nodes that must stay in float32 are found once, on real windows, and then reused. This module writes no files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from streamd.core.errors import BuildError
from streamd.tools.engine.flags import LARGEST_MOVE
from streamd.tools.engine.graph.onnx_graph import OnnxModel, fold_constants
from streamd.tools.engine.precision.half import FLOAT16
from streamd.tools.engine.precision.kept_nodes import SENSITIVE_OPERATORS, KeptNodes, choose_kept_nodes, convert_to_half
from streamd.tools.engine.precision.quantize import Quantizer
from streamd.tools.engine.precision.ranges import CalibrationWindows
from streamd.tools.engine.progress import Progress

RANGE_WINDOWS = 256
"""The number of windows that decide what fits half precision; each is run once for every group of tensors."""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """Options of graphs of lower precision."""

    windows: CalibrationWindows | None = None
    """Windows for calibration and comparison, or `None` to make neither."""

    calibration: str = "entropy"
    """One of `flags.CALIBRATIONS`, for int8."""

    per_channel: bool = True
    """Whether quantized weights have a scale for each channel."""

    typed: bool | None = None
    """The input of TensorRT's builder: graphs that carry their types (`True`), float32 graphs and flags (`False`), or
    what suits the installed version (`None`)."""

    sensitive_operators: frozenset[str] = SENSITIVE_OPERATORS
    largest_move: float = LARGEST_MOVE
    """The largest share by which one product in int8 may move an output."""


@dataclass(frozen=True)
class MadeGraph:
    """A graph of one precision, with the nodes that stayed in float32."""

    precision: str
    model: OnnxModel
    kept: KeptNodes
    seconds: float


class GraphMaker:
    """Makes graphs of lower precision from one float32 graph.

    `report` is called with each remark for the user and the log; by default it is printed with the progress.
    `rewriters` change the folded graph, one after another, and keep it equal up to rounding.
    """

    def __init__(
        self,
        model: OnnxModel,
        options: PrecisionOptions,
        progress: Progress | None = None,
        report: Callable[[str], None] | None = None,
        *,
        rewriters: Sequence[Callable[[OnnxModel], OnnxModel]] = (),
    ) -> None:
        self.options = options
        self._given, self._rewriters = model, rewriters
        self.progress = progress or Progress(quiet=True)
        self._report = report or self.progress.print_line
        self._kept: dict[int, KeptNodes] = {}
        """The kept nodes that were found, by element type."""

    @cached_property
    def model(self) -> OnnxModel:
        """Return the float32 graph with constants folded and rewritten, from which all others are made."""
        model = fold_constants(self._given)
        for rewrite in self._rewriters:
            model = rewrite(model)
        return model

    def make_graph(self, precision: str) -> MadeGraph:
        """Return the graph of a precision for ONNX Runtime; for fp32 the given graph itself. Raises `BuildError`."""
        began = time.monotonic()
        if precision == "fp32":
            model, kept = self._given, KeptNodes()
        elif precision == "fp16":
            kept = self.find_kept_nodes(FLOAT16)
            model = convert_to_half(self.model, kept)
        elif precision == "int8":
            model, kept = self.quantize_graph(self.find_kept_nodes(FLOAT16))
        else:
            raise BuildError(f"{precision}: ONNX Runtime has no kernels for it, expected fp32, fp16 or int8")
        return MadeGraph(precision, model, kept, time.monotonic() - began)

    def find_kept_nodes(self, element: int) -> KeptNodes:
        """Return the nodes to keep in float32 beside an element type of half precision; cached."""
        if element not in self._kept:
            windows = self.options.windows
            compared = None if windows is None else {name: array[:RANGE_WINDOWS] for name, array in windows.items()}
            if compared is None:
                self._report("no --calibration-data: tensors that overflow half precision are not searched for")
            with self.progress.start_job("comparing with half precision", 0) as job:
                self._kept[element] = choose_kept_nodes(
                    self.model,
                    compared,
                    element,
                    operators=self.options.sensitive_operators,
                    on_progress=job.advance_to,
                )
        return self._kept[element]

    def quantize_graph(self, kept: KeptNodes) -> tuple[OnnxModel, KeptNodes]:
        """Return the graph with Q/DQ pairs, and the nodes that stay in float32 or are only not quantized."""
        windows = self.options.windows
        if windows is None:
            raise BuildError("int8: needs real windows; give --calibration-data")
        count = len(next(iter(windows.values())))
        self._report(f"int8: calibrating on {count} windows ({self.options.calibration})")
        quantizer = Quantizer(
            self.options.calibration,
            per_channel=self.options.per_channel,
            largest_move=self.options.largest_move,
        )
        with self.progress.start_job("int8: comparing each product", 0) as job:
            model = quantizer.quantize(self.model, windows, kept, on_progress=job.advance_to)
        return model, KeptNodes(kept.reasons, quantizer.not_quantized)
