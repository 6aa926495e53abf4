"""One fault, provoked in this process: `load` a damaged plan, `fill` the device, `reset` it, an `illegal` access.

The last line that begins with {"told"... is the finding. Run by `benchmarks.gpu.faults`.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.correctness import Reference
from benchmarks.gpu.crashing import Crash
from benchmarks.gpu.faults_trial import AFTER_SECONDS, Trial
from benchmarks.gpu.harness import ROOT
from streamd.core.errors import DeviceLostError, LaneLostError, StreamdError
from streamd.repository.versions import EngineVersion, load_version
from streamd.server.config import load_config
from streamd.server.version_control.specs import open_version


def main() -> int:
    """Provoke one fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("load", "fill", "reset", "illegal"))
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--version", default="")
    parser.add_argument("--engines", type=Path)
    parser.add_argument("--spared-mib", type=int, default=150)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--how", choices=tuple(AFTER_SECONDS), default="once")
    asked = parser.parse_args()
    if asked.what == "fill":
        fill(asked.spared_mib << 20)
        return 0
    found = {"load": load, "reset": reset, "illegal": illegal}[asked.what](asked)
    print(json.dumps(found))
    return 0


# ---------------------------------------------------------------- plans and memory
def load(asked: argparse.Namespace) -> dict[str, Any]:
    """Load a plan and run a batch through it."""
    from streamd.inference.tensorrt.engine import Plan
    from streamd.inference.tensorrt.lane import TensorRtBackend

    version = load_version(Path(asked.version))
    precision = asked.plan.stem.rpartition("_")[2]
    try:
        lane = TensorRtBackend(Plan(asked.plan, precision), version.contract, (1, 8)).make_lane(0)
    except StreamdError as error:
        return {"told": f"refused: {error}"}
    error_found = _error_of(lane, Reference.of(version, 8))
    lane.close()
    return {"told": f"loaded; error against the reference {error_found:.1e}"}


def fill(spared_bytes: int) -> None:
    """Take the device's memory but for a little, say so, and hold it until the input ends."""
    from streamd.inference import cuda

    free, total = cuda.memory_bytes(0)
    held, size = [], free - spared_bytes
    while size >= 2**24:
        try:
            held.append(cuda.DeviceBuffer(size))
            size = min(size, cuda.memory_bytes(0)[0] - spared_bytes)
        except cuda.CudaError:
            size //= 2
    free, _ = cuda.memory_bytes(0)
    print(f"{sum(each.nbytes for each in held) >> 20} of {total >> 20} MiB; {free >> 20} MiB are free", flush=True)
    sys.stdin.read()
    for each in held:
        each.close()


def reset(asked: argparse.Namespace) -> dict[str, Any]:
    """Whether lanes that are closed and made anew after an illegal access forecast as before."""
    version = load_version(asked.engines / asked.version)
    reference = Reference.of(version, 8)
    backend, crash = _backend(asked, version)
    lanes = [backend.make_lane(index) for index in range(2)]
    before = _error_of(lanes[0], reference)
    crash.arm()
    try:
        crash.run(lanes[1], 1)
        told = "the access was not noticed"
    except LaneLostError as error:
        told = f"lost, {'and the device with it' if error.device_gone else 'the lane alone'}: {error}"
    for lane in lanes:
        lane.close()
    try:
        lane = backend.make_lane(0)
        after = _error_of(lane, reference)
        lane.close()
    except StreamdError as error:
        # Which of both a device does is measured; that it is lost for good must be said, and as such.
        lost = isinstance(error, DeviceLostError)
        return {"told": f"{told}; not brought back: {error}", "passes": lost, "came_back": False}
    sound = bool(after <= max(2 * before, 5e-3))
    return {
        "told": f"{told}; brought back, error {after:.1e} (before {before:.1e})",
        "passes": sound,
        "came_back": sound,
    }


def _error_of(lane: Any, reference: Reference) -> float:
    count = min(8, lane.buckets[-1])
    for name, buffer in lane.inputs.first(count).items():
        buffer[:] = getattr(reference.inputs, name)[:count]
    difference = (lane.run(count) - reference.forecasts[:count]).astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.flat[:count]))


def _backend(asked: argparse.Namespace, version: EngineVersion) -> tuple[Any, "Crash"]:
    config = load_config(ROOT / "config.toml", {}, {"backend": asked.backend, "lanes": 1, "buckets": (1, 8)})
    opened = open_version([version], config)
    for lane in opened.lanes:
        lane.close()
    return opened.backend, Crash()


def illegal(asked: argparse.Namespace) -> dict[str, Any]:
    """Serve under load and crash one lane."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Trial(asked).run())


if __name__ == "__main__":
    sys.exit(main())
