"""Runs a graph, a plan or a network on arrays, batch by batch, for validation and benchmarks.

Graphs and plans run as `streamd.engine` opens them; PyTorch, which the daemon never runs, is here. It judges nothing.
"""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.names import ONNXRUNTIME_CPU, TENSORRT
from streamd.inference.api.backends import DEFAULT_LARGEST_BATCH, OPENERS, OpenedRunners, OpenOptions, open_runners
from streamd.inference.runner import Array, Arrays, Runner, TensorSpec
from streamd.tools.engine.gate.targets import GateTarget
from streamd.tools.engine.gate.windows import ModelInputs
from streamd.tools.engine.graph.onnx_graph import Signature

LARGEST_BATCH_BYTES = 16 * 2**20
"""Limit of a graph's inputs in one batch, so that the tensors of a large network fit into memory."""


class NetworkRunner:
    """A network in PyTorch, in eager mode and float32, with one output.

    Batches come from the host's memory and go back to it, as those of other runners do.
    """

    pads = False
    buckets: tuple[int, ...] = (DEFAULT_LARGEST_BATCH,)

    def __init__(self, network: Any, signature: Signature, device: str, threads: int | None = None) -> None:
        import torch

        self.name = f"pytorch-{device}"
        self.device = device
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._place = torch, torch.device(device)
        self._network = network.to(self._place).eval()
        self.inputs, self.outputs = (
            tuple(TensorSpec(each.name, np.dtype(each.dtype), each.shape) for each in specs)
            for specs in (signature.inputs, signature.outputs)
        )

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Run one batch; inputs and outputs by name, each `(batch, ...)`."""
        tensors = (
            self._torch.from_numpy(np.require(feeds[spec.name], requirements=["C", "W"])) for spec in self.inputs
        )
        with self._torch.inference_mode():
            found = self._network(*(each.to(self._place) for each in tensors)).cpu()
        return {self.outputs[0].name: found.numpy()}

    def close(self) -> None:
        """Release the network."""
        self._network = None


def open_candidate(
    candidate: GateTarget,
    *,
    device: int = 0,
    lanes: int = 1,
    buckets: tuple[int, ...] | None = None,
    lean_runtime: Path | None = None,
) -> OpenedRunners:
    """Open a plan or a graph as it would serve, at its own buckets or at these; raises `BackendUnavailableError`."""
    if candidate.kind == "graph":
        return open_graph(candidate.path)
    compatible = bool(candidate.entry.get("version_compatible"))
    options = OpenOptions(
        buckets=buckets or candidate.buckets or None,
        devices=(device,),
        lanes=lanes,
        lean_runtime=lean_runtime if compatible else None,
    )
    return open_runners(candidate.path, None, TENSORRT, options, OPENERS)


def open_graph(graph: Path, backend: str = ONNXRUNTIME_CPU, **options: Any) -> OpenedRunners:
    """Open one lane of a graph; `options` are fields of `OpenOptions`. Raises `BackendUnavailableError`."""
    return open_runners(graph, None, backend, OpenOptions(lanes=1, **options), OPENERS)


def open_separate_lanes(graph: Path, backend: str, count: int, **options: Any) -> list[Runner]:
    """Open lanes that share no session, as the daemon's do not.

    If one cannot be opened, the others are closed. Raises `BackendUnavailableError`.
    """
    with ExitStack() as stack:
        runners = [stack.enter_context(closing(open_graph(graph, backend, **options).runners[0])) for _ in range(count)]
        stack.pop_all()
    return runners


def run_windows(runner: Runner, windows: ModelInputs, batch: int, *, least: int = 1) -> Arrays:
    """Run all windows in batches of this size, the last one smaller; return outputs by name, each `(windows, ...)`.

    A graph with large inputs gets smaller batches, but of `least` rows or more; a plan gets those it was built for.
    """
    if not runner.pads:
        batch = min(batch, max(least, LARGEST_BATCH_BYTES // sum(values[:1].nbytes for values in windows.values())))
    count = len(next(iter(windows.values())))
    parts = [
        runner.run({name: values[start : start + batch] for name, values in windows.items()})
        for start in range(0, count, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_alone_and_batched(graph: Path, windows: ModelInputs) -> tuple[Arrays, Arrays]:
    """Run a graph on ONNX Runtime's CPU, without optimizations: each row alone, and then rows in batches.

    Returns both outputs by name, each `(windows, ...)`. A single window is repeated to make a batch of two.
    """
    count = len(next(iter(windows.values())))
    rows = {name: np.resize(values, (max(2, count), *values.shape[1:])) for name, values in windows.items()}
    with closing(open_graph(graph, optimized=False).runners[0]) as runner:
        alone = run_windows(runner, windows, 1)
        batched = run_windows(runner, rows, runner.buckets[-1], least=2)
    return alone, {name: values[:count] for name, values in batched.items()}


def run_graph(graph: Path, windows: ModelInputs, *, optimized: bool = True) -> Arrays:
    """Run a graph on ONNX Runtime's CPU; with `optimized` false each node runs as it is written."""
    with closing(open_graph(graph, optimized=optimized).runners[0]) as runner:
        return run_windows(runner, windows, runner.buckets[-1])
