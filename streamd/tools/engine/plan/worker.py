"""Builds the plan of one job in its own process: `python -m streamd.tools.engine.plan.worker FOLDER`.

The folder holds `job.json` and the graphs that it names. The worker writes `plan` (of stages, if there are several
graphs) and `result.json` beside them and touches nothing else. If the build fails, the exit status is 1 and the reason
is on standard error.
"""

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


class GraphFile(msgspec.Struct, frozen=True, kw_only=True):
    """A graph to build a plan from: the fields of `PlanGraph`, with a `path` relative to the folder of the job."""

    path: str
    strongly_typed: bool
    flags: tuple[str, ...]
    pinned: tuple[str, ...]


class BuildJob(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one process: every graph of a network for one profile `(minimum, optimum, maximum)`."""

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

    def make_settings(self) -> BuildSettings:
        """Return the settings for `PlanBuilder`; it reads `timing_cache` and writes the same file."""
        return BuildSettings(
            profiles=(Profile(*self.profile),),
            workspace_bytes=self.workspace_bytes,
            timing_cache=Path(self.timing_cache) if self.timing_cache else None,
            version_compatible=self.version_compatible,
            tf32=self.tf32,
            optimization_level=self.optimization_level,
        )


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a job without the plan itself."""

    layers: int
    pinned_layers: int
    warnings: tuple[str, ...]
    log: tuple[str, ...]


def build_job(folder: Path) -> None:
    """Build the plan of the job in a folder; raises `StreamdError`."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=BuildJob)
    log: list[str] = []
    cuda.use_device(job.device)
    builder = PlanBuilder(load_builder(), job.make_settings(), Progress(quiet=True), log.append, verbose=job.verbose)
    onnx = import_onnx()
    graphs = []
    for file in job.graphs:
        model = onnx.load(str(folder / file.path))
        signature = extract_signature(model, file.path)
        graphs.append(
            PlanGraph(
                model=model,
                signature=signature,
                strongly_typed=file.strongly_typed,
                flags=file.flags,
                pinned=file.pinned,
            )
        )
    plan = builder.build_stages(graphs, job.name)
    (folder / PLAN).write_bytes(memoryview(plan.content).cast("B"))
    result = BuildResult(layers=plan.layers, pinned_layers=plan.pinned_layers, warnings=plan.warnings, log=tuple(log))
    (folder / RESULT).write_bytes(msgspec.json.encode(result))


def main(arguments: list[str]) -> int:
    """Build the job of the folder in `arguments`; return the exit status."""
    try:
        build_job(Path(arguments[0]))
    except StreamdError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
