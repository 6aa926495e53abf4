"""One fault, provoked in this process: `load` a damaged plan, `fill` the device, `reset` it, an `illegal` access.

Run by `faults.py`, which reads the last line that begins with {"told"... as the finding.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.correctness import Reference
from benchmarks.gpu.crash_test import AFTER_SECONDS, CrashTest
from benchmarks.gpu.crashing import Crash
from benchmarks.gpu.harness import ROOT
from streamd.core.errors import DeviceLostError, LaneLostError, StreamdError
from streamd.repository.versions import EngineVersion, load_version
from streamd.server.config import load_config
from streamd.server.version_control.specs import open_version


def main() -> int:
    """Provoke one fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("load", "fill", "reset", "illegal"), help="fault to provoke")
    parser.add_argument("--plan", type=Path, help="plan to load [default: no plan]")
    parser.add_argument("--version", default="", help="name of the version, or its folder to load [default: empty]")
    parser.add_argument("--engines", type=Path, help="folder of engine versions [default: no folder]")
    parser.add_argument(
        "--spared-mib", type=int, default=150, help="device memory that stays free [default: %(default)s]"
    )
    parser.add_argument("--folder", type=Path, help="folder for the daemon's state [default: no folder]")
    parser.add_argument("--backend", default="auto", help="backend to serve with [default: %(default)s]")
    parser.add_argument(
        "--how", choices=tuple(AFTER_SECONDS), default="once", help="number of crashes [default: %(default)s]"
    )
    args = parser.parse_args()
    if args.what == "fill":
        fill(args.spared_mib << 20)
        return 0
    found = {"load": load, "reset": reset, "illegal": crash_lane}[args.what](args)
    print(json.dumps(found))
    return 0


# ---------------------------------------------------------------- plans and memory
def load(args: argparse.Namespace) -> dict[str, Any]:
    """Load a plan and run a batch through it."""
    from streamd.inference.tensorrt.engine import Plan
    from streamd.inference.tensorrt.lane import TensorRtBackend

    version = load_version(Path(args.version))
    precision = args.plan.stem.rpartition("_")[2]
    try:
        lane = TensorRtBackend(Plan(args.plan, precision), version.contract, (1, 8)).make_lane(0)
    except StreamdError as error:
        return {"told": f"refused: {error}"}
    error_found = _measure_error(lane, Reference.of(version, 8))
    lane.close()
    return {"told": f"loaded; error against the reference {error_found:.1e}"}


def fill(spared_bytes: int) -> None:
    """Allocate all but `spared_bytes` of the device's memory, print it, and hold it until the input ends."""
    from streamd.inference import cuda

    free, total = cuda.get_memory_bytes(0)
    held, size = [], free - spared_bytes
    while size >= 2**24:
        try:
            held.append(cuda.DeviceBuffer(size))
            size = min(size, cuda.get_memory_bytes(0)[0] - spared_bytes)
        except cuda.CudaError:
            size //= 2
    free, _ = cuda.get_memory_bytes(0)
    print(f"{sum(each.nbytes for each in held) >> 20} of {total >> 20} MiB; {free >> 20} MiB are free", flush=True)
    sys.stdin.read()
    for each in held:
        each.close()


def reset(args: argparse.Namespace) -> dict[str, Any]:
    """Crash a lane, make lanes anew, and compare their forecasts with those before."""
    version = load_version(args.engines / args.version)
    reference = Reference.of(version, 8)
    backend, crash = _open_backend(args, version)
    lanes = [backend.make_lane(index) for index in range(2)]
    before = _measure_error(lanes[0], reference)
    crash.arm()
    try:
        crash.run(lanes[1], 1)
        noticed = "the access was not noticed"
    except LaneLostError as error:
        noticed = f"lost {'the device' if error.device_gone else 'the lane only'}: {error}"
    for lane in lanes:
        lane.close()
    try:
        lane = backend.make_lane(0)
        after = _measure_error(lane, reference)
        lane.close()
    except StreamdError as error:
        # Both outcomes are allowed. If the device cannot be recovered, the error must say so by its type.
        lost = isinstance(error, DeviceLostError)
        return {"told": f"{noticed}; not recovered: {error}", "passes": lost, "came_back": False}
    sound = bool(after <= max(2 * before, 5e-3))
    return {
        "told": f"{noticed}; recovered, error {after:.1e} (before {before:.1e})",
        "passes": sound,
        "came_back": sound,
    }


def _measure_error(lane: Any, reference: Reference) -> float:
    count = min(8, lane.buckets[-1])
    for name, buffer in lane.inputs.view_first(count).items():
        buffer[:] = getattr(reference.inputs, name)[:count]
    difference = (lane.run(count) - reference.forecasts[:count]).astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.flat[:count]))


def _open_backend(args: argparse.Namespace, version: EngineVersion) -> tuple[Any, Crash]:
    config = load_config(ROOT / "config.toml", {}, {"backend": args.backend, "lanes": 1, "buckets": (1, 8)})
    opened = open_version([version], config)
    for lane in opened.lanes:
        lane.close()
    return opened.backend, Crash()


def crash_lane(args: argparse.Namespace) -> dict[str, Any]:
    """Serve under load and crash one lane."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(CrashTest(args).run())


if __name__ == "__main__":
    sys.exit(main())
