"""An experiment: a patch forecaster as one kernel, compared with ONNX Runtime, and its time on the device.

`python -m benchmarks.gpu.fused.measure --engines DIR --out DIR`, after `compile.py`. Each variant of the kernel is
compared, then timed by events; then a pipeline of streams: windows gathered from resident ones, the kernel, the
finishing kernel, and the forecasts copied to the host. Not measured: staging, threads, Python between batches.

The kernel computes the network that shipped as patch_tensorrt_20261129_132957, without a memory and with other scaling,
and refuses any other version. The history of the repository has it:

    OLD=engines/patch_tensorrt_20261129_132957
    mkdir old && git archive "$(git rev-list -1 HEAD -- $OLD)^" $OLD | tar -x -C old
    python -m benchmarks.gpu.fused.measure --engines old/engines --out DIR
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.fused.compile import compile_variants
from benchmarks.gpu.fused.pack import OtherNetworkError, pack
from benchmarks.gpu.harness import describe_environment, find_versions
from benchmarks.gpu.windows import make_windows
from streamd.core.state.forecast_seals import make_value_multipliers
from streamd.inference import cuda
from streamd.inference.cuda import DeviceBuffer, Event, HostBuffer, KernelModule, Stream

HERE = Path(__file__).parent
CHUNK_BYTES, CHUNKS_AHEAD = 8192, 3
BYTES_A_WARP = 4 * (4 * 312 + 2 * 109)
BATCHES = (256, 512, 1024, 2048, 4096)
PIPELINE_BATCHES = (256, 512, 1024, 2048)
COMPARED = 256
PIPELINE_WINDOWS = 200_000
REPEATS = 20


class FusedKernel:
    """A variant, by the name of its file: `patch_<staged or cached>_<blocks a multiprocessor>_<warps a block>`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.name = path.stem
        self._warps = int(path.stem.rpartition("_")[2])
        self._shared = BYTES_A_WARP * self._warps + (CHUNKS_AHEAD + 1) * CHUNK_BYTES * ("staged" in path.name)
        module = KernelModule(path.read_bytes())
        stack.callback(module.close)
        self._kernel = module.get_kernel("forecast_patch")
        self._kernel.allow_shared_bytes(self._shared)

    def bind(self, batch: int, *arguments: int) -> Callable[[Stream], None]:
        """Return what launches it for a batch."""
        bound = self._kernel.bind(*arguments, batch)
        blocks = -(-7 * batch // self._warps)
        return lambda stream: bound.launch(blocks, 32 * self._warps, stream, self._shared)


class Device:
    """Device memory by name, filled from arrays."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.stream = stack.enter_context(Stream())

    def put(self, array: npt.NDArray[Any]) -> int:
        """Copy an array to the device; returns its address."""
        array = np.ascontiguousarray(array)
        pointer = self.make(array.nbytes)
        with HostBuffer(array.nbytes) as pinned:
            view = pinned.array(array.dtype, array.shape)
            view[:] = array
            cuda.copy_to_device(pointer, view, array.nbytes, self.stream)
            self.stream.synchronize()
        return pointer

    def make(self, nbytes: int) -> int:
        """Allocate memory; returns its address."""
        return self._stack.enter_context(DeviceBuffer(nbytes)).pointer

    def get(self, pointer: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Copy float32 numbers from the device."""
        nbytes = 4 * int(np.prod(shape))
        with HostBuffer(nbytes) as pinned:
            view = pinned.array(np.float32, shape)
            cuda.copy_to_host(view, pointer, nbytes, self.stream)
            self.stream.synchronize()
            return view.copy()


def tile(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Repeat rows until there are `count`."""
    return array[np.arange(count) % len(array)]


def main() -> int:
    """Compare and measure; writes `fused.json`. Returns 2 if the version is not the one that the kernel computes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (version,) = find_versions(args.engines, ["patch"])
    try:
        weights, numbers, targets = pack(version.path)
    except OtherNetworkError as error:
        print(error, file=sys.stderr)
        return 2
    contract = version.contract
    windows = make_windows(contract, COMPARED)
    given = windows.view_first(COMPARED)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(version.onnx))
    expected = session.run(None, given)[0].reshape(COMPARED, 96, 7, 7).transpose(0, 2, 1, 3)
    result: dict[str, Any] = {
        "measured_on": describe_environment(),
        "not_measured": "Staging, threads, Python between batches.",
        "kernels": [],
        "pipeline": [],
    }
    most = BATCHES[-1]
    cuda.use_device(0)
    cuda.call("cudaFree", 0)
    with ExitStack() as stack:
        device = Device(stack)
        inputs = {name: device.put(tile(array, most)) for name, array in given.items()}
        constants = [device.put(each) for each in (weights, numbers, targets)]
        forecasts = device.make(most * expected[0].nbytes)
        best: tuple[float, FusedKernel | None] = (np.inf, None)
        for path in find_kernels():
            began = time.perf_counter()
            kernel = FusedKernel(path, stack)
            loaded = time.perf_counter() - began
            ordered = [inputs[name] for name in ("encoder_cont", "encoder_cat", "decoder_cont", "decoder_cat")]
            arguments = (*ordered, *constants, forecasts, len(contract.features))
            kernel.bind(COMPARED, *arguments)(device.stream)
            made = device.get(forecasts, expected.shape)
            distance = float(np.linalg.norm(made - expected) / np.linalg.norm(expected))
            each = np.linalg.norm((made - expected).reshape(COMPARED, -1), axis=1)
            each /= np.maximum(np.linalg.norm(expected.reshape(COMPARED, -1), axis=1), 1e-30)
            took = {batch: time_launches(device.stream, kernel.bind(batch, *arguments)) for batch in BATCHES}
            row = {
                "kernel": path.stem, "load_seconds": round(loaded, 2),
                "error": distance, "worst_window": float(each.max()),
                "microseconds": {batch: round(1e6 * seconds, 1) for batch, seconds in took.items()},
                "forecasts_per_second": {batch: round(batch / seconds) for batch, seconds in took.items()},
            }  # fmt: skip
            print(row, flush=True)
            result["kernels"].append(row)
            (args.out / "fused.json").write_text(json.dumps(result, indent=1))
            if distance < 5e-3:
                best = min(best, (took[BATCHES[-1]], kernel), key=lambda pair: pair[0])
        if best[1] is not None:
            for batch in PIPELINE_BATCHES:
                for streams in (1, 2, 3, 4):
                    row = measure_pipeline(contract, best[1], constants, batch, streams)
                    print(row, flush=True)
                    result["pipeline"].append(row)
            (args.out / "fused.json").write_text(json.dumps(result, indent=1))
    return 0 if best[1] is not None else 1


def find_kernels() -> list[Path]:
    """Return the compiled variants; compiles them if there are none and NVRTC is installed."""
    if not list(HERE.glob("patch_*.ptx")):
        compile_variants()
    return sorted(HERE.glob("patch_*.ptx"))


def time_launches(stream: Stream, launch: Callable[[Stream], None]) -> float:
    """Return the median seconds of a launch, after some that are not timed."""
    took = []
    with Event(timing=True) as began, Event(timing=True) as ended:
        for turn in range(REPEATS + 3):
            began.record(stream)
            launch(stream)
            ended.record(stream)
            ended.synchronize()
            if turn >= 3:
                took.append(ended.elapsed_ms(began) / 1e3)
    return float(np.median(took))


def measure_pipeline(
    contract: Any, kernel: FusedKernel, constants: list[int], batch: int, streams: int
) -> dict[str, Any]:
    """Measure batches a second of: gather, forecast, finish, copy to the host; each stream has its own buffers."""
    capacity, length, features = 20_000, contract.context_length, len(contract.features)
    horizon, targets, quantiles = contract.horizon, len(contract.targets), len(contract.quantiles)
    random = np.random.default_rng(2)
    with ExitStack() as stack:
        own = Device(stack)
        module = KernelModule(cuda.read_ptx("windows"))
        stack.callback(module.close)
        rows = make_windows(contract, 256).encoder_cont
        values = own.put(tile(rows, capacity))
        marks = own.put(np.zeros((capacity, length), np.uint8))
        multipliers = own.put(make_value_multipliers(horizon * targets * quantiles))
        calendars = own.put(make_windows(contract, 1).decoder_cont)
        lanes = []
        for _ in range(streams):
            stream = stack.enter_context(Stream())
            zeros = own.put(np.zeros(batch, np.uint32))
            slots, starts = (own.put(random.integers(0, most, batch).astype(np.uint32)) for most in (capacity, length))
            into = [own.make(4 * batch * n) for n in (length * features, 2 * length, 4 * horizon, 2 * horizon)]
            made, finished, reports = (own.make(4 * batch * n) for n in (4704, 4704, 4))
            host = stack.enter_context(HostBuffer(4 * batch * 4704)).array(np.float32, (batch, 4704))
            report = stack.enter_context(HostBuffer(16 * batch)).array(np.uint64, (batch, 2))
            gather = module.get_kernel("gather_windows").bind(
                values, marks, slots, starts, zeros, zeros, calendars, *into, length, features, horizon, 4 * horizon
            )
            forecast = kernel.bind(batch, *into, *constants, made, features)
            finish = module.get_kernel("finish_forecasts").bind(
                made, finished, reports, multipliers, horizon * targets, 1, quantiles, 0
            )
            event = stack.enter_context(Event())
            lanes.append((stream, gather, forecast, finish, finished, reports, host, report, event))
        took = []
        for turns in (4 * streams, max(8 * streams, PIPELINE_WINDOWS // batch)):
            began = time.perf_counter()
            for _, lane in zip(range(turns), cycle(lanes), strict=False):
                stream, gather, forecast, finish, finished, reports, host, report, event = lane
                event.synchronize()
                gather.launch(batch, 256, stream)
                forecast(stream)
                finish.launch(batch, 256, stream, 4 * 4704)
                cuda.copy_to_host(host, finished, 4 * batch * 4704, stream)
                cuda.copy_to_host(report, reports, 16 * batch, stream)
                event.record(stream)
            for lane in lanes:
                lane[0].synchronize()
            took.append((time.perf_counter() - began) / turns)
        return {
            "kernel": kernel.name, "batch": batch, "streams": streams, "microseconds_a_batch": round(1e6 * took[-1], 1),
            "forecasts_per_second": round(batch / took[-1]),
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
