"""Runs a graph, a plan or a network on arrays, batch by batch: what validation and benchmarks share.

One of the rooms that name concrete backends, since each of them is what is judged here. Heavy imports are lazy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.errors import BackendUnavailableError
from streamd.toolchain.samples import Windows
from streamd.toolchain.subjects import Candidate

GRAPH_BATCH = 32
"""The batch size that graphs are judged at: ONNX Runtime takes any, and its kernels do not depend on it."""

LARGEST_BATCH_BYTES = 16 * 2**20
"""Of a graph's inputs in one batch: what a large network makes of it must fit into memory."""

Outputs = dict[str, npt.NDArray[Any]]


class Runner(Protocol):
    """Runs one batch at a time: `load`, then `run` any number of times, then `outputs`.

    `batch_sizes` are the sizes to judge it at; a loaded batch is at most as large as the largest. `pads` is true where
    a batch runs as the next larger of them.
    """

    backend: str
    batch_sizes: tuple[int, ...]
    pads: bool

    def load(self, inputs: Windows) -> None:
        """Put a batch where it is read from: arrays by name, `(batch, ...)`."""

    def run(self) -> None:
        """Run what is loaded; returns when its outputs can be read."""

    def outputs(self) -> Outputs:
        """What the last run gave, by name, `(batch, ...)`; copies."""

    def close(self) -> None:
        """Release what it holds; twice is harmless."""


class GraphRunner:
    """ONNX Runtime: `graph` is a file or a serialized model; `optimized` false runs each node as it is written."""

    pads = False

    def __init__(
        self,
        graph: Path | bytes,
        *,
        provider: str = "CPUExecutionProvider",
        threads: int = 0,
        optimized: bool = True,
        batch_sizes: tuple[int, ...] = (GRAPH_BATCH,),
    ) -> None:
        import onnxruntime

        self.backend = {"CPUExecutionProvider": "onnxruntime-cpu"}.get(provider, "onnxruntime-cuda")
        self.batch_sizes = batch_sizes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        given = str(graph) if isinstance(graph, Path) else graph
        try:
            self._session: Any = onnxruntime.InferenceSession(given, options, providers=[provider])
        except Exception as exc:  # ONNX Runtime's errors have no common root of their own
            raise BackendUnavailableError(f"{_told(graph)}: ONNX Runtime cannot load it: {exc}") from exc
        if provider not in self._session.get_providers():
            raise BackendUnavailableError(f"{_told(graph)}: ONNX Runtime left {provider} out; it would run on the CPU")
        self._names = [output.name for output in self._session.get_outputs()]
        self._inputs: Windows = {}
        self._found: list[npt.NDArray[Any]] = []

    def load(self, inputs: Windows) -> None:
        """See `Runner`."""
        self._inputs = {name: np.ascontiguousarray(values) for name, values in inputs.items()}

    def run(self) -> None:
        """See `Runner`."""
        self._found = self._session.run(self._names, self._inputs)

    def outputs(self) -> Outputs:
        """See `Runner`."""
        return dict(zip(self._names, self._found, strict=True))

    def close(self) -> None:
        """See `Runner`."""
        self._session = None


class PlanRunner:
    """TensorRT: a plan on one stream, each bucket captured as a CUDA graph where that goes."""

    backend = "tensorrt"
    pads = True

    def __init__(self, engine: Any, batch_sizes: tuple[int, ...]) -> None:
        from streamd.device.tensorrt_executor import TensorRtExecutor

        self.batch_sizes = batch_sizes
        self._executor = TensorRtExecutor(engine.plan.path.name, engine, batch_sizes)
        self._count = 0

    def load(self, inputs: Windows) -> None:
        """See `Runner`."""
        for name, buffer in self._executor.inputs.items():
            buffer[: len(inputs[name])] = inputs[name]
        self._count = len(next(iter(inputs.values())))

    def run(self) -> None:
        """See `Runner`."""
        self._executor.start(self._count)
        self._executor.wait()

    def outputs(self) -> Outputs:
        """See `Runner`."""
        return {name: values[: self._count].copy() for name, values in self._executor.outputs.items()}

    def close(self) -> None:
        """See `Runner`."""
        self._executor.close()


class NetworkRunner:
    """PyTorch, eager, in float32; `names` are the network's inputs in order and its one output last."""

    pads = False

    def __init__(self, network: Any, names: tuple[str, ...], device: str, threads: int = 0) -> None:
        import torch

        self.backend = f"pytorch-{device}"
        self.batch_sizes: tuple[int, ...] = (GRAPH_BATCH,)
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._device = torch, torch.device(device)
        self._network = network.to(self._device).eval()
        self._names = names
        self._inputs: list[Any] = []
        self._found: Any = None

    def load(self, inputs: Windows) -> None:
        """See `Runner`."""
        self._inputs = [self._torch.from_numpy(np.array(inputs[name])) for name in self._names[:-1]]

    def run(self) -> None:
        """See `Runner`; from the host's memory and back to it, as the others."""
        with self._torch.inference_mode():
            self._found = self._network(*(each.to(self._device) for each in self._inputs)).cpu()

    def outputs(self) -> Outputs:
        """See `Runner`."""
        return {self._names[-1]: self._found.numpy()}

    def close(self) -> None:
        """See `Runner`."""
        self._network = self._found = None


def open_candidate(candidate: Candidate, device: int = 0, threads: int = 0) -> Runner:
    """A plan or a graph as it would serve; raises `BackendUnavailableError`."""
    if candidate.kind == "graph":
        return GraphRunner(candidate.path, threads=threads)
    return PlanRunner(load_plan(candidate.path, candidate.precision, device), candidate.buckets)


def load_plan(path: Path, precision: str, device: int = 0) -> Any:
    """A plan that any number of `PlanRunner` share; raises `BackendUnavailableError`."""
    from streamd.device.tensorrt_engine import Plan, SharedEngine, load_tensorrt

    return SharedEngine(load_tensorrt(), Plan(path, precision), device)


@contextmanager
def opened(runner: Runner) -> Iterator[Runner]:
    """Close a runner at the end."""
    try:
        yield runner
    finally:
        runner.close()


def run_all(runner: Runner, windows: Windows, batch: int) -> Outputs:
    """Run all windows in batches of this size, the last one smaller; outputs by name, `(windows, ...)`.

    A graph's batches are smaller where its inputs are large; a plan's are as it was built.
    """
    if not runner.pads:
        batch = min(batch, max(1, LARGEST_BATCH_BYTES // sum(values[:1].nbytes for values in windows.values())))
    count = len(next(iter(windows.values())))
    parts: list[Outputs] = []
    for start in range(0, count, batch):
        runner.load({name: values[start : start + batch] for name, values in windows.items()})
        runner.run()
        parts.append(runner.outputs())
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def reference(graph: Path, windows: Windows) -> Outputs:
    """What float32 gives: ONNX Runtime on the CPU, each node as it is written."""
    with opened(GraphRunner(graph, optimized=False)) as runner:
        return run_all(runner, windows, GRAPH_BATCH)


def _told(graph: Path | bytes) -> str:
    return str(graph) if isinstance(graph, Path) else "the graph"
