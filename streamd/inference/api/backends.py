"""Opens the runners of an engine on a backend: TensorRT, ONNX Runtime on CUDA, or ONNX Runtime on the CPU.

The table `OPENERS` is the only place of the library that names backends; a caller may give another table.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.core.errors import BackendUnavailableError, ConfigError
from streamd.core.names import AUTO, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, PRECISION_CHOICES, TENSORRT
from streamd.inference.api.sources import EngineSource, find_source
from streamd.inference.lane import LANES_PER_DEVICE
from streamd.inference.opening import SkippedBackend, open_all, open_first
from streamd.inference.runner import Runner

DEFAULT_LARGEST_BATCH = 32
"""The largest batch if the caller gives no buckets and the backend runs any size.

Large enough to fill a device, small enough for the memory of a large network.
"""


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """The options of a caller; the backend decides those that are `None`.

    With `optimized` false, ONNX Runtime runs each node on the CPU as it is written: the reference for comparisons.
    """

    precision: str = AUTO
    buckets: tuple[int, ...] | None = None
    devices: tuple[int, ...] = (0,)
    lanes: int | None = None
    threads: int | None = None
    lean_runtime: Path | None = None
    optimized: bool = True

    def check(self) -> None:
        """Raise `ConfigError` if a value is out of range."""
        if self.precision not in PRECISION_CHOICES:
            raise ConfigError(f"precision is {self.precision!r}, expected one of {PRECISION_CHOICES}")
        if self.buckets is not None and (not self.buckets or min(self.buckets) < 1):
            raise ConfigError(f"buckets are {self.buckets}, expected batch sizes of 1 or more")
        if not self.devices or min(self.devices) < 0:
            raise ConfigError(f"devices are {self.devices}, expected at least one index from 0")
        for name, value in (("lanes", self.lanes), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more")


@dataclass(frozen=True)
class Runners:
    """The runners that a backend opened, all with the same buckets, and their precision."""

    runners: list[Runner]
    precision: str


@dataclass(frozen=True)
class OpenedRunners(Runners):
    """Runners with the name of their backend, and the backends that were passed over; of a version, its contract."""

    backend: str
    passed_over: tuple[SkippedBackend, ...]
    contract: ModelContract | None = None


Opener = Callable[[EngineSource, OpenOptions], Runners]
"""Opens a source; raises `BackendUnavailableError` with the reason if it does not run here."""


def open_runners(
    path: Path, plans: Path | None, backend: str, options: OpenOptions, openers: Mapping[str, Opener]
) -> OpenedRunners:
    """Open with the backend of this name, or with `auto` the first that runs; raises as `InferenceEngine.open`."""
    options.check()
    if backend != AUTO and backend not in openers:
        raise ConfigError(f"backend is {backend!r}, expected {AUTO} or one of {sorted(openers)}")
    source = find_source(path, plans)
    names = openers if backend == AUTO else [backend]
    name, opened, passed_over = open_first(str(path), {name: partial(openers[name], source, options) for name in names})
    contract = None if source.version is None else source.version.contract
    return OpenedRunners(opened.runners, opened.precision, name, passed_over, contract)


def _open_tensorrt(source: EngineSource, options: OpenOptions) -> Runners:
    from streamd.inference import cuda
    from streamd.inference.tensorrt.engine import Plan, SharedEngine
    from streamd.inference.tensorrt.library import load_tensorrt
    from streamd.inference.tensorrt.runner import TensorRtRunner, find_plan_buckets
    from streamd.repository.plans import Machine

    library, devices = load_tensorrt(), options.devices
    cuda.check_devices(devices)
    try:
        for device in devices:
            cuda.revive(device)  # only now: a device can be revived while this process holds nothing on it
        gpu, capability = cuda.get_device_name(devices[0]), cuda.get_compute_capability(devices[0])
        chosen = source.find_plan(options.precision, Machine(gpu, capability, library.version, library.lean))
        lean = options.lean_runtime if chosen.version_compatible else None
        plan = Plan(chosen.path, chosen.precision, lean)
        engines = {device: SharedEngine(library, plan, device) for device in devices}
        with ExitStack() as holds:  # while it is held, an engine is loaded once and not again for each query
            for engine in engines.values():
                engine.acquire()
                holds.callback(engine.release)
            buckets = find_plan_buckets(engines[devices[0]], options.buckets or chosen.buckets)
            # A plan has no default values: it does not state itself what a caller may leave out.
            optional = frozenset({MEMORY_INPUT} if source.has_memory else ())

            def make(index: int, device: int) -> Runner:
                return TensorRtRunner(f"cuda:{device}/{index}", engines[device], buckets, optional=optional)

            return Runners(open_all(partial(make, *place) for place in _place_lanes(options)), chosen.precision)
    except cuda.CudaError as exc:
        raise BackendUnavailableError(str(exc)) from exc


def _open_onnxruntime_cuda(source: EngineSource, options: OpenOptions) -> Runners:
    from streamd.inference.onnxruntime.library import load_onnxruntime
    from streamd.inference.onnxruntime.runner import OnnxRuntimeRunner
    from streamd.inference.onnxruntime.session import open_cuda_session

    graph, precision = source.find_graph(options.precision)
    buckets = options.buckets or (DEFAULT_LARGEST_BATCH,)
    runtime = load_onnxruntime()
    sessions = {device: open_cuda_session(runtime, graph, device) for device in options.devices}

    def make(index: int, device: int) -> Runner:
        return OnnxRuntimeRunner(f"cuda:{device}/{index}", f"cuda:{device}", sessions[device], graph, buckets)

    return Runners(open_all(partial(make, *place) for place in _place_lanes(options)), precision)


def _open_onnxruntime_cpu(source: EngineSource, options: OpenOptions) -> Runners:
    from streamd.inference.onnxruntime.runner import OnnxRuntimeRunner
    from streamd.inference.onnxruntime.session import open_cpu_session

    graph, precision = source.find_graph(options.precision)
    buckets = options.buckets or (DEFAULT_LARGEST_BATCH,)
    threads = options.threads or len(os.sched_getaffinity(0))
    session = open_cpu_session(graph, threads, optimized=options.optimized)

    def make(index: int, device: int) -> Runner:
        return OnnxRuntimeRunner(f"cpu/{index}", "cpu", session, graph, buckets)

    # One lane, on all cores: several lanes take as long together, and each of them takes longer.
    return Runners(open_all(partial(make, index, 0) for index in range(options.lanes or 1)), precision)


def _place_lanes(options: OpenOptions) -> list[tuple[int, int]]:
    """Return the number of each lane on its device, together with that device."""
    devices = options.devices
    count = options.lanes or LANES_PER_DEVICE * len(devices)
    return [(index // len(devices), devices[index % len(devices)]) for index in range(count)]


OPENERS: Mapping[str, Opener] = {
    TENSORRT: _open_tensorrt,
    ONNXRUNTIME_CUDA: _open_onnxruntime_cuda,
    ONNXRUNTIME_CPU: _open_onnxruntime_cpu,
}
"""The opener of each backend, in the order in which `auto` tries them."""
