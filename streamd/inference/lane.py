"""The interface of a lane, and the buffers that a micro-batch is gathered into.

A lane has one owner at a time: the event loop while it is idle (it gathers into `inputs`), the lane's thread
while it runs. A TensorRT lane is one CUDA stream with its contexts, pinned buffers and graphs; on the CPU it
is one ONNX Runtime session.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract

LANES_PER_DEVICE = 4
"""The default number of lanes on a GPU."""

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The model's inputs for up to `max_batch` windows; shapes as in `ModelContract`.

    In pinned host memory if the device has any. The gathering code writes the first rows of each.
    """

    encoder_cont: Float32
    encoder_cat: Int32
    decoder_cont: Float32
    decoder_cat: Int32

    @classmethod
    def allocate(cls, contract: ModelContract, max_batch: int) -> "Inputs":
        """Return zeroed buffers in ordinary memory."""
        shapes = contract.input_shapes
        return cls(
            encoder_cont=np.zeros((max_batch, *shapes["encoder_cont"]), np.float32),
            encoder_cat=np.zeros((max_batch, *shapes["encoder_cat"]), np.int32),
            decoder_cont=np.zeros((max_batch, *shapes["decoder_cont"]), np.float32),
            decoder_cat=np.zeros((max_batch, *shapes["decoder_cat"]), np.int32),
        )

    def view_first(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return views of the first `count` windows by input name."""
        return {
            "encoder_cont": self.encoder_cont[:count],
            "encoder_cat": self.encoder_cat[:count],
            "decoder_cont": self.decoder_cont[:count],
            "decoder_cat": self.decoder_cat[:count],
        }


class Lane(Protocol):
    """Runs one micro-batch at a time.

    `buckets` are the batch sizes that it is built for, in rising order. If `pads` is true, a batch runs as the next
    larger bucket; otherwise any size up to the largest runs as it is.
    """

    name: str
    device: str
    buckets: tuple[int, ...]
    pads: bool
    inputs: Inputs

    def run(self, count: int) -> Float32:
        """Run the first `count` windows of `inputs`; blocks, in the lane's thread, with the GIL released.

        Returns `(count, horizon, targets, quantiles) float32`, valid until the next call. Raises
        `BatchFailedError` if this batch is the cause, `LaneLostError` if the lane is unusable.
        """
        ...

    def check(self) -> None:
        """Raise `LaneLostError` if the device is known not to answer; never blocks. For a lane that is idle."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the details that `/v1/status` shows beside the lane's name and device."""
        ...

    def close(self) -> None:
        """Release the resources of the lane; a second call does nothing. The last lane releases what they share."""
        ...


class Backend(Protocol):
    """A way to run an engine version; makes lanes.

    It holds no resources of the device itself: what lanes share (the weights of an engine) is loaded for the first
    lane and released with the last.
    """

    name: str
    precision: str
    default_lanes: int
    """The number of lanes to open if the configuration does not state one."""

    def make_lane(self, index: int) -> Lane:
        """Make the lane of this index; raises `BackendUnavailableError` with the reason."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the details that `/v1/status` shows."""
        ...
