"""`streamd engine build`: flags to plans or graphs, in a new engine version or in a plain folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamd.core.errors import BackendUnavailableError, ConfigError
from streamd.inference.tensorrt.plan_file import MOST_ALTERNATIVES
from streamd.tools.engine.flags import parse_batch_sizes, parse_mebibytes, parse_precisions

if TYPE_CHECKING:
    from streamd.tools.engine.graph.source import GraphSource
    from streamd.tools.engine.output.folders import PlansFolder
    from streamd.tools.engine.plan.builder import BuildSettings, Profile
    from streamd.tools.engine.plan.maker import MadePlan, PlanMaker
    from streamd.tools.engine.precision.graphs import PrecisionOptions
    from streamd.tools.engine.progress import Progress

LARGEST_MOVE = 0.01
"""What lets the shipped models through the accuracy gate in int8; at 0.05 the patched one fails it."""

WITHOUT_TENSORRT = (
    "plans are built on a machine with an NVIDIA GPU and its driver, after pip install 'streamd[build,tensorrt]';"
    " --backend onnxruntime makes graphs that run without"
)

DESCRIPTION = """\
Build TensorRT plans on this machine's GPU, for it and for the installed TensorRT.

The result is a new engine version beside the others, written whole or not at all, which `streamd serve` takes.
A plan holds one static profile for each bucket (batch size), so that each can be captured into a CUDA graph;
--min-batch, --opt-batch and --max-batch build one dynamic profile instead.

--backend onnxruntime needs neither GPU nor TensorRT: the new version holds a graph for each precision (fp32, fp16,
int8 with Q/DQ pairs), which `streamd engine validate` and `bench` run on ONNX Runtime.
fp16 and bf16 keep in float32 what meets raw units, what is steep, and what --calibration-data shows not to fit.
For TensorRT 8.6 (and with --no-typed) the graph is cut into stages, each a plan of its own, all in one file: what meets
raw units before and after in float32, and between them the core with flags, where only what does not fit is pinned.
Needs the extra `build`; TensorRT plans need the extra `tensorrt` too: pip install 'streamd[build,tensorrt]'.
"""

EXAMPLES = """\
examples:
  streamd engine build --version engines/patch_tensorrt_20261121_160844 --precision fp32,fp16 \\
      --calibration-data examples/fleet/servers.csv.gz --timing-cache gpu.timing-cache
  streamd engine build --version engines/tft_tensorrt_20261121_160858 --precision int8 \\
      --calibration-data windows.npz --num-calibration-samples 500
  streamd engine build --version engines/patch_tensorrt_20261121_160844 --backend onnxruntime --precision fp32,int8 \\
      --calibration-data examples/fleet/servers.csv.gz
  streamd engine build --onnx model.onnx --precision fp16 --min-batch 1 --opt-batch 64 --max-batch 256 \\
      --plans-only plans/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    source = parser.add_argument_group("from")
    one = source.add_mutually_exclusive_group(required=True)
    one.add_argument("--onnx", type=Path, metavar="FILE", help="any ONNX model with a dynamic batch axis")
    one.add_argument("--version", type=Path, metavar="DIR", help="an engine version: its graph and its manifest")
    source.add_argument("--config", type=Path, metavar="FILE",
                        help="the manifest of --onnx (config.json beside it)")  # fmt: skip
    plans = parser.add_argument_group("plans")
    plans.add_argument("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt",
                       help="what the result is for (tensorrt)")  # fmt: skip
    plans.add_argument("--precision", type=parse_precisions, default=("fp32", "fp16"), metavar="P,...",
                       help="fp32, fp16, bf16, int8 (fp32,fp16)")  # fmt: skip
    plans.add_argument("--buckets", type=parse_batch_sizes, metavar="N,...", help="batch sizes (1,8,32,64,128,256)")
    for name in ("min", "opt", "max"):
        plans.add_argument(f"--{name}-batch", type=int, metavar="N", help=f"{name} of one dynamic profile instead")
    plans.add_argument("--workspace-size", type=parse_mebibytes, default=4096 * 2**20, metavar="MIB",
                       help="device memory that the builder may use, in MiB (4096)")  # fmt: skip
    plans.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep what was timed; later builds are quick")
    plans.add_argument("--jobs", type=int, default=1, metavar="N",
                       help="build so many batch sizes at a time, each in a process and a plan of its own, which each"
                            " hold the weights; a timing cache is then only read (1: one plan for all)")  # fmt: skip
    plans.add_argument("--optimization-level", type=int, choices=range(6), help="how long to search (TensorRT's own)")
    plans.add_argument(
        "--version-compatible", action="store_true", help="plans that later TensorRTs' lean runtime runs"
    )
    plans.add_argument("--tf32", action="store_true", help="let float32 products round to TF32: faster, error 1e-3")
    plans.add_argument("--typed", action=argparse.BooleanOptionalAction,
                       help="build fp16 from a graph that says its types, or from the float32 graph, cut into stages,"
                            " with flags, which TensorRT before 11 takes (graph from 10 on, flags before; to 8.6 types"
                            " are a hint to the core)")  # fmt: skip
    plans.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU to build on (0)")
    data = parser.add_argument_group("calibration")
    data.add_argument("--calibration-data", type=Path, metavar="FILE",
                      help=".npz of the model's inputs, or a fleet (.csv, .csv.gz, .parquet); for int8")  # fmt: skip
    data.add_argument("--num-calibration-samples", type=int, default=1000, metavar="N", help="windows at most (1000)")
    data.add_argument("--calibration", choices=("entropy", "minmax"), default="entropy", help="(entropy)")
    data.add_argument("--largest-move", type=float, default=LARGEST_MOVE, metavar="SHARE",
                      help="int8: leave out each product that alone moves an output by more (%(default)s)")  # fmt: skip
    data.add_argument("--per-tensor", action="store_true", help="int8: one scale for a weight, not one a channel")
    out = parser.add_argument_group("to")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder of engine versions (the version's own; engines)")
    out.add_argument("--name", help="of the new version, before _tensorrt_<stamp> (the source's)")
    out.add_argument("--default", action="store_true", help="let the new version serve when nothing else is said")
    out.add_argument(
        "--plans-only",
        type=Path,
        metavar="DIR",
        help="write plans into this folder, and no version; each is on record once it is made",
    )
    out.add_argument("--keep-graphs", action="store_true", help="keep the graphs that each plan was built from")
    out.add_argument("--json", action="store_true", help="tell the result as JSON on standard output")
    out.add_argument("--quiet", action="store_true", help="no progress")
    out.add_argument("--verbose", action="store_true", help="all that TensorRT says")


def main(args: argparse.Namespace) -> int:
    """Build; returns the exit status. Raises `StreamdError`."""
    from streamd.tools.engine.gate.proving import prove_file
    from streamd.tools.engine.graph.source import read_source
    from streamd.tools.engine.progress import Progress

    profiles = make_profiles(args)
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: expected 1 or more")
    if args.jobs > 1 and len(profiles) > MOST_ALTERNATIVES:
        raise ConfigError(f"--jobs: {len(profiles)} batch sizes, expected at most {MOST_ALTERNATIVES} of one file")
    source = read_source(args.onnx, args.version, args.config, manifest_needed=not args.plans_only)
    if args.backend != "onnxruntime" or args.precision != ("fp32",):
        source.require_weights()
    options = _options(args, source)
    prove_file(source.onnx, source.signature, options.windows)
    progress = Progress(quiet=args.quiet)
    if args.backend == "onnxruntime":
        result = _make_graphs(args, source, options, progress)
    else:
        result = _build(args, source, _settings(args, profiles), options, progress)
    print(json.dumps(result, indent=2) if args.json else result["folder"])
    return 0


def make_profiles(args: argparse.Namespace) -> tuple[Profile, ...]:
    """One static profile a bucket, or one dynamic profile; raises `ConfigError` where flags contradict each other."""
    from streamd.tools.engine.plan.builder import DEFAULT_BUCKETS, Profile

    dynamic = (args.min_batch, args.opt_batch, args.max_batch)
    if dynamic == (None, None, None):
        return tuple(Profile.static(bucket) for bucket in args.buckets or DEFAULT_BUCKETS)
    if args.buckets:
        raise ConfigError("--buckets and --min-batch, --opt-batch, --max-batch: give one kind")
    if None in dynamic or not 1 <= dynamic[0] <= dynamic[1] <= dynamic[2]:
        raise ConfigError(f"--min-batch, --opt-batch, --max-batch are {dynamic}; expected three rising sizes from 1")
    return (Profile(*dynamic),)


def _settings(args: argparse.Namespace, profiles: tuple[Profile, ...]) -> BuildSettings:
    from streamd.tools.engine.plan.builder import BuildSettings

    return BuildSettings(
        profiles=profiles,
        workspace_bytes=args.workspace_size,
        timing_cache=args.timing_cache,
        version_compatible=args.version_compatible,
        tf32=args.tf32,
        optimization_level=args.optimization_level,
    )


def _options(args: argparse.Namespace, source: GraphSource) -> PrecisionOptions:
    from streamd.tools.engine.gate.windows import read_windows
    from streamd.tools.engine.precision.graphs import PrecisionOptions

    if args.num_calibration_samples < 1:
        raise ConfigError(f"--num-calibration-samples {args.num_calibration_samples}: expected 1 or more")
    if "int8" in args.precision and not args.calibration_data:
        raise ConfigError("--precision int8 needs --calibration-data FILE: real windows to take the ranges from")
    windows = None
    if args.calibration_data:
        count = args.num_calibration_samples
        windows = read_windows(args.calibration_data, source.signature, source.contract, count)
    if not args.largest_move > 0:
        raise ConfigError(f"--largest-move {args.largest_move}: expected a share above 0, as 0.01")
    per_channel, move = not args.per_tensor, args.largest_move
    return PrecisionOptions(windows, args.calibration, per_channel, args.typed, largest_move=move)


def _build(
    args: argparse.Namespace,
    source: GraphSource,
    settings: BuildSettings,
    options: PrecisionOptions,
    progress: Progress,
) -> dict[str, Any]:
    from streamd.inference import cuda
    from streamd.tools.engine.plan.builder import PlanBuilder
    from streamd.tools.engine.plan.library import load_builder
    from streamd.tools.engine.plan.maker import PlanMaker

    try:
        library = load_builder()
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(f"{exc}; {WITHOUT_TENSORRT}") from exc
    cuda.use_device(args.device)
    about = {
        "gpu": cuda.device_name(args.device),
        "compute_capability": cuda.compute_capability(args.device),
        "tensorrt": library.version,
        "calibration": _calibration(args, options),
    }
    folder = _folder(args, source)
    with folder:
        builder = PlanBuilder(library, settings, progress, folder.log, verbose=args.verbose)
        maker = PlanMaker(builder, source.model, source.signature, options)
        for made in _made(args, maker, settings, folder):
            precision = made.precision
            entry = folder.add(made, settings, about, keep_graph=args.keep_graphs)
            progress.line(f"{precision}: {entry['file']}, {entry['bytes']:,} bytes in {entry['seconds']:.0f} s")
        return folder.finish()


def _made(
    args: argparse.Namespace, maker: PlanMaker, settings: BuildSettings, folder: PlansFolder
) -> Iterator[MadePlan]:
    """The plans, one after another or side by side."""
    if args.jobs == 1:
        yield from map(maker.make_plan, args.precision)
        return
    from streamd.tools.engine.plan.parallel import BuildPool

    progress = maker.builder.progress
    pool = BuildPool(settings, args.jobs, progress, folder.log, device=args.device, verbose=args.verbose)
    yield from pool.make_plans([maker.prepare_plan(precision) for precision in args.precision])


def _make_graphs(
    args: argparse.Namespace, source: GraphSource, options: PrecisionOptions, progress: Progress
) -> dict[str, Any]:
    """Graphs for ONNX Runtime, which any machine can make."""
    if "bf16" in args.precision:
        raise ConfigError("--backend onnxruntime has no kernels for bf16: expected fp32, fp16, int8")
    import onnxruntime

    from streamd.tools.engine.gate.proving import prove_model
    from streamd.tools.engine.precision.graphs import GraphMaker

    about = {"onnxruntime": onnxruntime.__version__, "calibration": _calibration(args, options)}
    with _folder(args, source) as folder:

        def note(text: str) -> None:
            progress.line(text)
            folder.log(text)

        maker = GraphMaker(source.model, options, progress, note)
        for precision in args.precision:
            made = maker.make_graph(precision)
            if precision != "fp32":  # which is the source's own
                prove_model(made.model, f"model_{precision}.onnx", source.signature, options.windows)
            entry = folder.add_graph(made, about)
            progress.line(f"{precision}: {entry['file']}, {entry['bytes']:,} bytes in {entry['seconds']:.0f} s")
        return folder.finish()


def _folder(args: argparse.Namespace, source: GraphSource) -> PlansFolder:
    """Where the result goes."""
    from streamd.tools.engine.output.folders import PlansFolder, VersionFolder

    if args.plans_only:
        return PlansFolder(args.plans_only, source, args.command_line)
    return VersionFolder(source, args.out, args.name, args.command_line, default=args.default)


def _calibration(args: argparse.Namespace, options: PrecisionOptions) -> dict[str, Any] | None:
    """What is recorded of the windows."""
    if options.windows is None:
        return None
    from streamd.repository.conversion import sha256_of

    count = len(next(iter(options.windows.values())))
    path = args.calibration_data
    return {"file": path.name, "sha256": sha256_of(path), "windows": count, "method": options.calibration}
