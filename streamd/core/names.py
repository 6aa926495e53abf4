"""The names of backends and of precisions: the values of settings, flags and files, each written once.

Imports nothing but `typing`, because `streamd --help` needs it and must be quick.
"""

from typing import Final, Literal, get_args

AUTO: Final = "auto"
"""Let the daemon or the library choose."""

TENSORRT: Final = "tensorrt"
ONNXRUNTIME_CUDA: Final = "onnxruntime-cuda"
ONNXRUNTIME_CPU: Final = "onnxruntime-cpu"

BackendName = Literal["auto", "tensorrt", "onnxruntime-cuda", "onnxruntime-cpu"]
"""The values of the setting `backend`."""

BACKEND_CHOICES: tuple[str, ...] = get_args(BackendName)
BACKENDS = BACKEND_CHOICES[1:]
"""The backends that `auto` tries, in this order."""

PART_FLAG: Final = "--part"
"""The argument, hidden from the help, that makes `streamd serve` one of several processes of a daemon."""

PrecisionName = Literal["auto", "fp32", "fp16", "bf16", "int8"]
"""The values of the setting `precision`."""

PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionName)
PRECISIONS = PRECISION_CHOICES[1:]
"""The precisions that a graph or a plan can have."""
