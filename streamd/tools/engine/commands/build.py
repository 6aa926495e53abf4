"""`streamd engine build`: make plans or graphs, in a new engine version or in a plain folder."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamd.core.errors import BackendUnavailableError, ConfigError
from streamd.inference.tensorrt.plan_file import MAX_ALTERNATIVES
from streamd.tools.engine.flags import (
    CALIBRATIONS,
    DEFAULT_BUCKETS,
    DEFAULT_WORKSPACE_BYTES,
    LARGEST_MOVE,
    parse_batch_sizes,
    parse_mebibytes,
    parse_precisions,
)

if TYPE_CHECKING:
    from streamd.tools.engine.graph.source import GraphSource
    from streamd.tools.engine.output.folders import PlansFolder
    from streamd.tools.engine.plan.builder import BuildSettings, Profile
    from streamd.tools.engine.plan.maker import MadePlan, PlanMaker
    from streamd.tools.engine.precision.graphs import PrecisionOptions
    from streamd.tools.engine.progress import Progress

WITHOUT_TENSORRT = (
    "plans are built on a machine with an NVIDIA GPU and its driver, after pip install 'streamd[build,tensorrt]';"
    " --backend onnxruntime makes graphs that run without them"
)

DESCRIPTION = """\
Build TensorRT plans on this machine's GPU, for it and for the installed TensorRT.

The result is a new engine version beside the others, written whole or not at all, which `streamd serve` can load.
A plan holds one static profile for each bucket (batch size), so that each can be captured into a CUDA graph;
--min-batch, --opt-batch and --max-batch build one dynamic profile instead.

--backend onnxruntime needs neither GPU nor TensorRT: the new version holds a graph for each precision (fp32, fp16,
int8 with Q/DQ pairs), which `streamd engine validate` and `bench` run on ONNX Runtime.
For the forecasters that ship, int8 is no gain (docs/gpus-and-engines.md has what was measured): take fp16 on a GPU and
fp32 on a CPU, and int8 only for a network for which `bench` shows that it pays.
fp16 and bf16 keep some nodes in float32: those that read raw units, those that amplify small errors, and those whose
values --calibration-data shows to be out of range.
For TensorRT 8.6 (and with --no-typed) the graph is cut into stages, each a plan of its own, all in one file: the first
and the last stage, which meet raw units, in float32; between them the core, in which flags allow lower precision and
only nodes with values out of range are pinned to float32.
Needs the extra `build`; TensorRT plans need the extra `tensorrt` too: pip install 'streamd[build,tensorrt]'.
"""

EXAMPLES = """\
examples:
  streamd engine build --version engines/patch_tensorrt_20261129_232000 --precision fp32,fp16 \\
      --calibration-data examples/fleet/servers.csv.gz --timing-cache gpu.timing-cache
  streamd engine build --version engines/tft_tensorrt_20261129_232100 --backend onnxruntime --precision fp32,fp16 \\
      --calibration-data windows.npz --num-calibration-samples 500
  streamd engine build --onnx large.onnx --precision fp16,int8 --calibration-data windows.npz --plans-only plans/
  streamd engine build --onnx model.onnx --precision fp16 --min-batch 1 --opt-batch 64 --max-batch 256 \\
      --plans-only plans/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    _add_source_arguments(parser)
    _add_plan_arguments(parser)
    _add_calibration_arguments(parser)
    _add_output_arguments(parser)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("from")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--onnx", type=Path, metavar="FILE", help="any ONNX model with a dynamic batch axis")
    one.add_argument("--version", type=Path, metavar="DIR", help="an engine version: its graph and its manifest")
    group.add_argument("--config", type=Path, metavar="FILE",
                       help="manifest of --onnx [default: config.json beside it]")  # fmt: skip


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("plans")
    group.add_argument("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt",
                       help="library that is to run the result [default: tensorrt]")  # fmt: skip
    group.add_argument("--precision", type=parse_precisions, default=("fp32", "fp16"), metavar="P,...",
                       help="precisions, of fp32, fp16, bf16, int8 [default: fp32,fp16]")  # fmt: skip
    group.add_argument("--buckets", type=parse_batch_sizes, metavar="N,...",
                       help=f"batch sizes [default: {','.join(map(str, DEFAULT_BUCKETS))}]")  # fmt: skip
    for name, text in (("min", "smallest"), ("opt", "usual"), ("max", "largest")):
        group.add_argument(f"--{name}-batch", type=int, metavar="N",
                           help=f"{text} batch size of one dynamic profile, instead of --buckets")  # fmt: skip
    group.add_argument("--workspace-size", type=parse_mebibytes, default=DEFAULT_WORKSPACE_BYTES, metavar="MIB",
                       help="device memory that the builder may use, in MiB"
                            f" [default: {DEFAULT_WORKSPACE_BYTES // 2**20}]")  # fmt: skip
    group.add_argument("--timing-cache", type=Path, metavar="FILE",
                       help="file that keeps TensorRT's timings, so that later builds are quick")  # fmt: skip
    group.add_argument("--jobs", type=int, default=1, metavar="N",
                       help="number of batch sizes built at a time, each in its own process, into a plan of its own,"
                            " which holds its own copy of the weights; a timing cache is then only read [default: 1,"
                            " one plan for all batch sizes]")  # fmt: skip
    group.add_argument("--optimization-level", type=int, choices=range(6),
                       help="effort of the builder's search [default: TensorRT's own]")  # fmt: skip
    group.add_argument("--version-compatible", action="store_true",
                       help="plans that the lean runtime of a later TensorRT can run")  # fmt: skip
    group.add_argument("--tf32", action="store_true",
                       help="rounding of float32 products to TF32: faster, with an error of 1e-3")  # fmt: skip
    group.add_argument("--typed", action=argparse.BooleanOptionalAction,
                       help="source of fp16 plans: a graph that carries its types, or, with --no-typed, the float32"
                            " graph, cut into stages, with flags, which TensorRT before 11 takes [default: typed from"
                            " TensorRT 10 on, else flags; up to 8.6 the types are a hint to the core]")  # fmt: skip
    group.add_argument("--device", type=int, default=0, metavar="N",
                       help="index of the GPU to build on [default: 0]")  # fmt: skip


def _add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration-data", type=Path, metavar="FILE",
                       help="real windows, which int8 needs: an .npz of the model's inputs, or a fleet (.csv, .csv.gz,"
                            " .parquet)")  # fmt: skip
    group.add_argument("--num-calibration-samples", type=int, default=1000, metavar="N",
                       help="number of windows, at most [default: 1000]")  # fmt: skip
    group.add_argument("--calibration", choices=CALIBRATIONS, default=CALIBRATIONS[0],
                       help="method that takes the ranges from the windows [default: %(default)s]")  # fmt: skip
    group.add_argument("--largest-move", type=float, default=LARGEST_MOVE, metavar="SHARE",
                       help="int8: limit of what one product alone may move an output; a product above it is not"
                            " quantized [default: %(default)s]")  # fmt: skip
    group.add_argument(
        "--per-tensor", action="store_true", help="int8: one scale for each weight, not for each channel"
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("to")
    group.add_argument("--out", type=Path, metavar="DIR",
                       help="folder of engine versions [default: that of the source, or engines]")  # fmt: skip
    group.add_argument("--name", help="name of the new version, before _tensorrt_<stamp> [default: the source's]")
    group.add_argument("--default", action="store_true",
                       help="mark in the manifest: the new version serves unless another is pinned or"
                            " promoted")  # fmt: skip
    group.add_argument("--plans-only", type=Path, metavar="DIR",
                       help="folder for plans alone, without a version; each is recorded once it is made")  # fmt: skip
    group.add_argument("--keep-graphs", action="store_true", help="also the graphs that each plan was built from")
    group.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    group.add_argument("--quiet", action="store_true", help="no progress")
    group.add_argument("--verbose", action="store_true", help="all messages of TensorRT")


def main(args: argparse.Namespace) -> int:
    """Build, and return the exit status. Raises `StreamdError`."""
    from streamd.tools.engine.gate.proving import prove_file
    from streamd.tools.engine.graph.source import read_source
    from streamd.tools.engine.progress import Progress

    profiles = make_profiles(args)
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: expected 1 or more")
    if args.jobs > 1 and len(profiles) > MAX_ALTERNATIVES:
        raise ConfigError(f"--jobs: {len(profiles)} batch sizes, expected at most {MAX_ALTERNATIVES} of one file")
    source = read_source(args.onnx, args.version, args.config, manifest_needed=not args.plans_only)
    if args.backend != "onnxruntime" or args.precision != ("fp32",):
        source.require_weights()
    options = _make_options(args, source)
    prove_file(source.onnx, source.signature, options.windows)
    progress = Progress(quiet=args.quiet)
    if args.backend == "onnxruntime":
        result = _make_graphs(args, source, options, progress)
    else:
        result = _build_plans(args, source, _make_settings(args, profiles), options, progress)
    print(json.dumps(result, indent=2) if args.json else result["folder"])
    return 0


def make_profiles(args: argparse.Namespace) -> "tuple[Profile, ...]":
    """Return a static profile for each bucket, or one dynamic profile. Raises `ConfigError` if flags contradict."""
    from streamd.tools.engine.plan.builder import Profile

    dynamic = (args.min_batch, args.opt_batch, args.max_batch)
    if dynamic == (None, None, None):
        return tuple(Profile.static(bucket) for bucket in args.buckets or DEFAULT_BUCKETS)
    if args.buckets:
        raise ConfigError("--buckets and --min-batch, --opt-batch, --max-batch: give one kind")
    if None in dynamic or not 1 <= dynamic[0] <= dynamic[1] <= dynamic[2]:
        raise ConfigError(f"--min-batch, --opt-batch, --max-batch are {dynamic}; expected three rising sizes from 1")
    return (Profile(*dynamic),)


def _make_settings(args: argparse.Namespace, profiles: "tuple[Profile, ...]") -> "BuildSettings":
    from streamd.tools.engine.plan.builder import BuildSettings

    return BuildSettings(
        profiles=profiles,
        workspace_bytes=args.workspace_size,
        timing_cache=args.timing_cache,
        version_compatible=args.version_compatible,
        tf32=args.tf32,
        optimization_level=args.optimization_level,
    )


def _make_options(args: argparse.Namespace, source: "GraphSource") -> "PrecisionOptions":
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
    return PrecisionOptions(
        windows=windows,
        calibration=args.calibration,
        per_channel=not args.per_tensor,
        typed=args.typed,
        largest_move=args.largest_move,
    )


def _build_plans(
    args: argparse.Namespace,
    source: "GraphSource",
    settings: "BuildSettings",
    options: "PrecisionOptions",
    progress: "Progress",
) -> dict[str, Any]:
    """Build a plan for each precision on the GPU and write the result; return what `--json` prints."""
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
        "gpu": cuda.get_device_name(args.device),
        "compute_capability": cuda.get_compute_capability(args.device),
        "tensorrt": library.version,
        "calibration": _describe_calibration(args, options),
    }
    with _make_folder(args, source) as folder:
        builder = PlanBuilder(library, settings, progress, folder.log_line, verbose=args.verbose)
        maker = PlanMaker(builder, source.model, source.signature, options)
        for made in _make_plans(args, maker, settings, folder):
            precision = made.precision
            entry = folder.add_plan(made, settings, about, keep_graph=args.keep_graphs)
            progress.print_line(f"{precision}: {entry['file']}, {entry['bytes']:,} bytes in {entry['seconds']:.0f} s")
        return folder.finish()


def _make_plans(
    args: argparse.Namespace, maker: "PlanMaker", settings: "BuildSettings", folder: "PlansFolder"
) -> "Iterator[MadePlan]":
    """Yield the plan of each precision; with `--jobs`, batch sizes are built at the same time in processes."""
    if args.jobs == 1:
        yield from map(maker.make_plan, args.precision)
        return
    from streamd.tools.engine.plan.parallel import BuildPool

    progress = maker.builder.progress
    pool = BuildPool(settings, args.jobs, progress, folder.log_line, device=args.device, verbose=args.verbose)
    yield from pool.make_plans([maker.prepare_plan(precision) for precision in args.precision])


def _make_graphs(
    args: argparse.Namespace, source: "GraphSource", options: "PrecisionOptions", progress: "Progress"
) -> dict[str, Any]:
    """Make a graph for each precision, for ONNX Runtime, on any machine; return what `--json` prints."""
    if "bf16" in args.precision:
        raise ConfigError("--backend onnxruntime has no kernels for bf16: expected fp32, fp16, int8")
    import onnxruntime

    from streamd.tools.engine.gate.proving import prove_model
    from streamd.tools.engine.precision.graphs import GraphMaker

    about = {"onnxruntime": onnxruntime.__version__, "calibration": _describe_calibration(args, options)}
    with _make_folder(args, source) as folder:

        def report(text: str) -> None:
            progress.print_line(text)
            folder.log_line(text)

        maker = GraphMaker(source.model, options, progress, report)
        for precision in args.precision:
            made = maker.make_graph(precision)
            if precision != "fp32":  # the graph of fp32 is the source itself, which `main` has proven
                prove_model(made.model, f"model_{precision}.onnx", source.signature, options.windows)
            entry = folder.add_graph(made, about)
            progress.print_line(f"{precision}: {entry['file']}, {entry['bytes']:,} bytes in {entry['seconds']:.0f} s")
        return folder.finish()


def _make_folder(args: argparse.Namespace, source: "GraphSource") -> "PlansFolder":
    """Return the folder that takes the result: a plain one, or that of a new version."""
    from streamd.tools.engine.output.folders import PlansFolder, VersionFolder

    if args.plans_only:
        return PlansFolder(args.plans_only, source, args.command_line)
    return VersionFolder(source, args.out, args.name, args.command_line, default=args.default)


def _describe_calibration(args: argparse.Namespace, options: "PrecisionOptions") -> dict[str, Any] | None:
    """Return the entry of the record on the calibration windows; None without windows."""
    if options.windows is None:
        return None
    from streamd.repository.conversion import hash_file

    count = len(next(iter(options.windows.values())))
    path = args.calibration_data
    return {"file": path.name, "sha256": hash_file(path), "windows": count, "method": options.calibration}
