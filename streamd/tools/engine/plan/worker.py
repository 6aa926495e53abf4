"""Builds the plans of one job in a process of its own: `python -m streamd.tools.engine.plan.worker FOLDER`.

The folder holds `job.json` and the graphs it names; the plan (of stages, where there are several graphs) and
`result.json` are written beside them. The exit status is 1 where there is no plan, with the reason on standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from streamd.core.errors import StreamdError
from streamd.inference import cuda
from streamd.tools.engine.graph.onnx_graph import extract_signature, import_onnx
from streamd.tools.engine.plan.builder import BuildSettings, PlanBuilder, PlanGraph, Profile
from streamd.tools.engine.plan.library import load_builder
from streamd.tools.engine.progress import Progress

JOB, RESULT, PLAN = "job.json", "result.json", "plan"


class GraphFile(msgspec.Struct, frozen=True):
    """A graph to build a plan from; the fields are those of `PlanGraph`, `path` is relative to the job's folder."""

    path: str
    strongly_typed: bool
    flags: tuple[str, ...]
    pinned: tuple[str, ...]


class BuildJob(msgspec.Struct, frozen=True):
    """What one process builds: every graph of a network for one profile `(minimum, optimum, maximum)`."""

    name: str
    graphs: tuple[GraphFile, ...]
    profile: tuple[int, int, int]
    workspace_bytes: int
    version_compatible: bool
    tf32: bool
    device: int
    timing_cache: str | None = None
    optimization_level: int | None = None
    verbose: bool = False

    def settings(self) -> BuildSettings:
        """The same for a builder; the timing cache is read, and written into the job's folder."""
        return BuildSettings(
            (Profile(*self.profile),),
            self.workspace_bytes,
            Path(self.timing_cache) if self.timing_cache else None,
            self.version_compatible,
            self.tf32,
            self.optimization_level,
        )


class BuildResult(msgspec.Struct, frozen=True):
    """What came of a job, but for the plan itself."""

    layers: int
    pinned_layers: int
    warnings: tuple[str, ...]
    log: tuple[str, ...]


def build_plans(folder: Path) -> None:
    """Build the job of a folder; raises `StreamdError`."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=BuildJob)
    log: list[str] = []
    cuda.use_device(job.device)
    builder = PlanBuilder(load_builder(), job.settings(), Progress(quiet=True), log.append, verbose=job.verbose)
    onnx = import_onnx()
    graphs = []
    for file in job.graphs:
        model = onnx.load(str(folder / file.path))
        signature = extract_signature(model, file.path)
        graphs.append(PlanGraph(model, signature, file.strongly_typed, file.flags, file.pinned))
    plan = builder.build_stages(graphs, job.name)
    (folder / PLAN).write_bytes(memoryview(plan.content).cast("B"))
    result = BuildResult(plan.layers, plan.pinned_layers, plan.warnings, tuple(log))
    (folder / RESULT).write_bytes(msgspec.json.encode(result))


def main(arguments: list[str]) -> int:
    """Build; returns the exit status."""
    try:
        build_plans(Path(arguments[0]))
    except StreamdError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
