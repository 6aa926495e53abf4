"""Runs a graph, a plan or a network on arrays, batch by batch: what validation and benchmarks share.

Graphs and plans run as `streamd.engine` opens them; PyTorch, which serves nowhere, is here. Heavy imports are lazy.
"""

from __future__ import annotations

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
"""Of a graph's inputs in one batch: what a large network makes of it must fit into memory."""


class NetworkRunner:
    """PyTorch, eager, in float32, with one output; batches as the others': from the host's memory and back to it."""

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
        """Run one batch."""
        given = (self._torch.from_numpy(np.require(feeds[spec.name], requirements=["C", "W"])) for spec in self.inputs)
        with self._torch.inference_mode():
            found = self._network(*(each.to(self._place) for each in given)).cpu()
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
    """A plan or a graph as it would serve, at its own buckets or at these; raises `BackendUnavailableError`."""
    if candidate.kind == "graph":
        return open_graph(candidate.path)
    compatible = bool(candidate.said.get("version_compatible"))
    options = OpenOptions(
        buckets=buckets or candidate.buckets or None,
        devices=(device,),
        lanes=lanes,
        lean_runtime=lean_runtime if compatible else None,
    )
    return open_runners(candidate.path, None, TENSORRT, options, OPENERS)


def open_graph(graph: Path, backend: str = ONNXRUNTIME_CPU, **options: Any) -> OpenedRunners:
    """One lane of a graph, with some of `OpenOptions`; raises `BackendUnavailableError`."""
    return open_runners(graph, None, backend, OpenOptions(lanes=1, **options), OPENERS)


def open_separate_lanes(graph: Path, backend: str, count: int, **options: Any) -> list[Runner]:
    """Lanes that share no session, as the daemon's: all of them or none; raises `BackendUnavailableError`."""
    with ExitStack() as made:
        runners = [made.enter_context(closing(open_graph(graph, backend, **options).runners[0])) for _ in range(count)]
        made.pop_all()
    return runners


def run_windows(runner: Runner, windows: ModelInputs, batch: int, *, least: int = 1) -> Arrays:
    """Run all windows in batches of this size, the last one smaller; outputs by name, `(windows, ...)`.

    A graph's batches are smaller where its inputs are large, but of `least` rows; a plan's are as it was built.
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
    """What ONNX Runtime gives on the CPU, each node as it is written: for each row alone, and for rows in company.

    Outputs by name, `(windows, ...)`. A single window is its own company.
    """
    count = len(next(iter(windows.values())))
    rows = {name: np.resize(values, (max(2, count), *values.shape[1:])) for name, values in windows.items()}
    with closing(open_graph(graph, optimized=False).runners[0]) as runner:
        alone = run_windows(runner, windows, 1)
        together = run_windows(runner, rows, runner.buckets[-1], least=2)
    return alone, {name: values[:count] for name, values in together.items()}


def run_graph(graph: Path, windows: ModelInputs, *, optimized: bool = True) -> Arrays:
    """What ONNX Runtime gives on the CPU; `optimized` false runs each node as it is written."""
    with closing(open_graph(graph, optimized=optimized).runners[0]) as runner:
        return run_windows(runner, windows, runner.buckets[-1])
