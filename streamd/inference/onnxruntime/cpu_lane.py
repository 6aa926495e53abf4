"""ONNX Runtime on the CPU: each lane is one session with its own threads.

Needs no device.
"""

import os
from pathlib import Path
from typing import Any

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BatchFailedError
from streamd.core.names import ONNXRUNTIME_CPU
from streamd.inference.checked import CheckedFiles
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.graph import check_by_running, check_session, shape_predictions
from streamd.inference.onnxruntime.library import import_onnxruntime
from streamd.inference.onnxruntime.session import make_run_error, open_cpu_session


class OnnxRuntimeCpuBackend:
    """Runs a version's `model.onnx`; any batch size up to the largest bucket runs as it is."""

    name = ONNXRUNTIME_CPU

    def __init__(
        self,
        model: Path,
        contract: ModelContract,
        buckets: tuple[int, ...],
        threads_per_lane: int,
        precision: str = "fp32",
        *,
        checked: CheckedFiles | None = None,
    ) -> None:
        self._runtime = import_onnxruntime()
        self.model = model
        self._checked = checked
        self.contract = contract
        self.buckets = buckets
        self.threads_per_lane = threads_per_lane
        self.precision = precision
        # With one lane more than cores, each core has work while a lane passes its batch on: 5 % more throughput.
        self.default_lanes = len(os.sched_getaffinity(0)) + 1

    def make_lane(self, index: int) -> "OnnxRuntimeCpuLane":
        """Load the model into a session of its own; with `checked`, a model that is not the checked one is refused."""
        session = open_cpu_session(self.model, self.threads_per_lane, checked=self._checked)
        check_session(self.model, session, self.contract)
        check_by_running(self.model, session, self.contract)
        return OnnxRuntimeCpuLane(f"cpu-{index}", session, self.contract, self.buckets)

    def describe(self) -> dict[str, Any]:
        """Return the runtime's version and threads."""
        return {"onnxruntime": self._runtime.__version__, "threads_per_lane": self.threads_per_lane}


class OnnxRuntimeCpuLane:
    """A lane of one session; `run` blocks with the GIL released."""

    device = "cpu"
    pads = False

    def __init__(self, name: str, session: Any, contract: ModelContract, buckets: tuple[int, ...]) -> None:
        self.name = name
        self.buckets = buckets
        self.inputs = Inputs.allocate(contract, buckets[-1])
        self._session = session
        self._shape = (contract.horizon, len(contract.targets), len(contract.quantiles))

    def run(self, count: int) -> Float32:
        """Run the first `count` windows; a graph that fails raises `BatchFailedError`."""
        if self._session is None:
            raise BatchFailedError(f"lane {self.name} is closed")
        try:
            (predictions,) = self._session.run(["predictions"], self.inputs.view_first(count))
        except Exception as exc:  # ONNX Runtime's errors have no common root of their own
            raise make_run_error(f"lane {self.name}", self.device, exc) from exc
        return shape_predictions(f"lane {self.name}", predictions, count, self._shape)

    def check(self) -> None:
        """Do nothing: the CPU needs no health check."""

    def describe(self) -> dict[str, Any]:
        """Return no details: all are its backend's."""
        return {}

    def close(self) -> None:
        """Drop the session."""
        self._session = None
