"""The interface of a lane, and the buffers that a micro-batch is gathered into.

A lane has one owner at a time: the event loop while it is idle (it gathers into `inputs`), the lane's thread
while it runs. A TensorRT lane is one CUDA stream with its contexts, pinned buffers and graphs; on the CPU it
is one ONNX Runtime session.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT, ModelContract

LANES_PER_DEVICE = 4
"""The default number of lanes on a GPU."""

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HostWindows:
    """The arrays of the host's window store that staging reads, by slot.

    `newest int64`, `changes uint32` (odd while a window is being changed), `generations int64`;
    `values (capacity, length, features) float32`, `marks (capacity, length) uint8`: the row of a step is at
    `step % length`.
    """

    newest: npt.NDArray[np.int64]
    changes: npt.NDArray[np.uint32]
    generations: npt.NDArray[np.int64]
    values: Float32
    marks: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The model's inputs for up to `max_batch` windows; shapes as in `ModelContract`.

    In pinned host memory if the device has any. The gathering code writes the first rows of each.
    """

    encoder_cont: Float32
    encoder_cat: Int32
    decoder_cont: Float32
    decoder_cat: Int32
    memory_cont: Float32 | None = None
    """`None` for a model that asks for no memory."""
    buffers: tuple[memoryview, ...] = field(init=False, repr=False, compare=False)
    """The bytes of the arrays, in this order: a window of a caller who sent them as they are is copied fastest so."""

    def __post_init__(self) -> None:
        """Make the views of the bytes."""
        arrays = [self.encoder_cont, self.encoder_cat, self.decoder_cont, self.decoder_cat]
        if self.memory_cont is not None:
            arrays.append(self.memory_cont)
        object.__setattr__(self, "buffers", tuple(array.reshape(-1).view(np.uint8).data for array in arrays))

    @classmethod
    def allocate(cls, contract: ModelContract, max_batch: int) -> "Inputs":
        """Return zeroed buffers in ordinary memory."""
        shapes = contract.input_shapes
        return cls(**{name: np.zeros((max_batch, *shape), INPUT_TYPES[name]) for name, shape in shapes.items()})

    def view_first(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return views of the first `count` windows by input name."""
        return self.view_rows(0, count)

    def view_rows(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Return views of the windows from `begin` to `end` by input name."""
        views: dict[str, npt.NDArray[Any]] = {
            "encoder_cont": self.encoder_cont[begin:end],
            "encoder_cat": self.encoder_cat[begin:end],
            "decoder_cont": self.decoder_cont[begin:end],
            "decoder_cat": self.decoder_cat[begin:end],
        }
        if self.memory_cont is not None:
            views[MEMORY_INPUT] = self.memory_cont[begin:end]
        return views

    def forget_memory(self, begin: int, end: int) -> None:
        """Let the windows from `begin` to `end` have no memory, if the model asks for one."""
        if self.memory_cont is not None:
            self.memory_cont[begin:end] = np.nan


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """Forecasts that need no more work: quantiles sorted, targets first, and rows that are not finite found.

    `forecasts (batch, targets, horizon, quantiles) float32` are valid until the lane's next run. `checks (batch,)
    uint64` are their checksums, as `compute_checks` computes them, or `None` if the lane does not.
    """

    forecasts: Float32
    bad_rows: tuple[int, ...]
    checks: npt.NDArray[np.uint64] | None


@dataclass(frozen=True, slots=True)
class StagedWindows:
    """The windows of a staged batch: their newest steps, `(n,) int64`, and which of them are `torn`, `(n,) bool`.

    Another process was changing a torn window all the time: its forecast is worthless. `unknown (n, targets) bool` are
    the targets that no row of a window has a value of.
    """

    steps: npt.NDArray[np.int64]
    torn: npt.NDArray[np.bool_]
    unknown: npt.NDArray[np.bool_]


class ResidentWindows(Protocol):
    """The windows that a device keeps, as one of its lanes uses them: its batches are staged, and finished there.

    A lane that has them has them in its attribute `resident`, see `get_resident`. The windows of callers are in
    `inputs` behind the staged ones, as in any lane.
    """

    def stage(
        self,
        windows: HostWindows,
        slots: npt.NDArray[np.int64],
        servers: npt.NDArray[np.int32],
        make_calendar: Callable[[int], Float32],
    ) -> StagedWindows:
        """Stage the windows of `slots (n,)`, at least one, as the first of the lane's next batch; on the event loop.

        `servers` are the servers' numbers for the network, `(n,)` or `(1,)`. `make_calendar` makes the calendar
        `(horizon, 4)` behind a step; it is called least if slots with the same newest step are neighbours.
        """
        ...

    def run(self, count: int) -> FinishedBatch:
        """Run the staged windows and the callers' behind them, `count` in all; blocks and raises as `Lane.run`."""
        ...


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


def get_resident(lane: Lane) -> ResidentWindows | None:
    """Return the windows that the lane's device keeps, or `None` if it keeps none."""
    return cast("ResidentWindows | None", getattr(lane, "resident", None))


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
