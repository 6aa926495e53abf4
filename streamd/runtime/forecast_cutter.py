"""Cuts one part out of many forecasts, and narrows it to float16, into the frames that are sent.

ONNX Runtime converts: numpy converts one value at a time, and takes ten times as long.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.selection import ForecastSlice, convert_to_float16

CLIP_AND_CAST = bytes.fromhex(
    "08083a780a170a01780a036c6f770a04686967681201632204436c69700a170a01631201792204436173742a090a02746f18"
    "0aa001021201672a0d100142036c6f774a0400e07fc72a0e10014204686967684a0400e07f475a100a0178120b0a09080112"
    "050a0312016e62100a0179120b0a09080a12050a0312016e42040a001011"
)
"""An ONNX model: `y (n,) float16` is `x (n,) float32`, clipped to the range of float16 and rounded to the nearest."""

FEW_VALUES = 4_096
"""Up to so many values numpy converts in less time than a call of ONNX Runtime takes, 10 us."""


class ForecastCutter:
    """Writes parts of forecasts into arrays of others, which may be the frames that are sent. Belongs to one thread."""

    def __init__(self) -> None:
        self._session = open_cast_session()
        self._binding = None if self._session is None else self._session.io_binding()

    def cut_into(
        self, target: npt.NDArray[np.floating], values: Float32, slots: npt.NDArray[np.int64], part: ForecastSlice
    ) -> None:
        """Write a part of the forecasts of some slots into `target (n, target, step, quantile)`, of the part's dtype.

        `values (slots, targets, horizon, quantiles)` has the forecasts of all slots. `target` is C-contiguous. A value
        beyond the range of float16 becomes the largest one.
        """
        if part.is_whole(values.shape[1:]) and target.dtype == np.float32:
            values.take(slots, axis=0, out=target, mode="clip")  # every slot exists: without a mode it is copied twice
        elif target.dtype == np.float16:
            self._narrow(np.ascontiguousarray(part.gather(values, slots)), target)
        else:
            target[...] = part.gather(values, slots)

    def _narrow(self, values: Float32, target: npt.NDArray[np.floating]) -> None:
        binding = self._binding
        if self._session is None or binding is None or values.size <= FEW_VALUES:
            target[...] = convert_to_float16(values)
            return
        shape = (values.size,)
        binding.bind_input("x", "cpu", 0, np.float32, shape, values.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float16, shape, target.ctypes.data)
        self._session.run_with_iobinding(binding)


@cache
def open_cast_session() -> Any:
    """Return the session that converts, which has no threads of its own; `None` without ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:  # a daemon with other backends works without it
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(CLIP_AND_CAST, options, providers=["CPUExecutionProvider"])
