"""`streamd engine bench`: latency and throughput of PyTorch, ONNX Runtime and each precision, in one run."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamd.core.errors import BuildError, ConfigError, StreamdError
from streamd.core.names import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, TENSORRT
from streamd.tools.engine.commands.validate import add_subject_arguments, read_requested_subject
from streamd.tools.engine.flags import parse_batch_sizes, parse_precisions

if TYPE_CHECKING:
    from streamd.inference.runner import Runner
    from streamd.tools.engine.bench.measure import Variant
    from streamd.tools.engine.gate.targets import GateTarget, Subject
    from streamd.tools.engine.gate.truth import JudgedWindows
    from streamd.tools.engine.progress import Progress

DEPENDENCE_WINDOWS = 8
"""Number of windows that is enough to show whether rows depend on each other."""

DESCRIPTION = """\
Measure a version, or any ONNX model: PyTorch (eager mode; if it is installed and the version has weights), ONNX Runtime
on the CPU and on CUDA, and each plan or graph, at each batch size and number of lanes.

All variants are warmed up and then take short turns in one run, so that other load on the machine affects all of them
alike. A latency is that of one batch from ordinary memory and back to it, copies into pinned memory included, without
gathering windows; a lane is a thread with a runner of its own.
Writes benchmark_results.json, benchmark.md and benchmark.svg.
"""

EXAMPLES = """\
examples:
  streamd engine bench patch_tensorrt_20261129_232000 --batches 1,32 --lanes 1,2
  streamd engine bench engines/patch_tensorrt_20261129_232000 --precision fp32,fp16 --lanes 1,4,8 --seconds 1
  streamd engine bench --onnx model.onnx --plans plans/ --out results/
"""

NOT_MEASURED = (
    "gathering windows into a lane's buffers, the network, and the rest of the daemon: `make bench` measures that",
    "accuracy: `streamd engine validate` does",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_subject_arguments(parser)
    parser.add_argument("--precision", type=parse_precisions, metavar="P,...",
                        help="precisions to measure [default: all that can run here]")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="windows to run, as for validate [default: examples/fleet]")  # fmt: skip
    parser.add_argument("--batches", type=parse_batch_sizes, default=(1, 8, 32, 64), metavar="N,...",
                        help="batch sizes; of a plan, those that are its buckets [default: 1,8,32,64]")  # fmt: skip
    parser.add_argument("--lanes", type=parse_batch_sizes, default=(1, 2), metavar="N,...",
                        help="numbers of lanes that run at the same time [default: 1,2]")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each CPU lane [default: 1]")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="length of a turn [default: 0.5]")
    parser.add_argument("--turns", type=int, default=4, metavar="N", help="number of turns of each cell [default: 4]")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU [default: 0]")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder for the files [default: the version; with --onnx, no files]")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Measure, and return the exit status. Raises `StreamdError`."""
    from contextlib import nullcontext

    from streamd.repository.files import VersionHold
    from streamd.tools.engine.bench.report import format_bench_table
    from streamd.tools.engine.progress import Progress

    if args.seconds <= 0 or args.turns < 1 or args.threads < 1:
        raise ConfigError("--seconds, --turns and --threads: expected more than 0, 1 or more, 1 or more")
    subject = read_requested_subject(args)
    folder = subject.source.folder
    with VersionHold(folder) if folder else nullcontext():
        results = _measure(subject, args, Progress(quiet=args.quiet))
        _write_results(subject, args, results)
    text = json.dumps(results, indent=2) if args.json else format_bench_table(results)
    print(text)
    return 0 if results["results"] else 1


def list_variants(subject: "Subject", args: argparse.Namespace) -> "tuple[list[Variant], dict[str, str]]":
    """Return every way to run the network here, and, by name, the reasons why others are left out."""
    left_out = dict(subject.passed_over)
    variants = _make_network_variants(subject, args, left_out)
    variants += [
        _make_graph_variant(subject.onnx, "fp32", backend, args) for backend in (ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA)
    ]
    for candidate in subject.candidates:
        if candidate.kind == "plan":
            variants.append(_make_plan_variant(candidate, args))
        elif candidate.precision != "fp32":
            variants.append(_make_graph_variant(candidate.path, candidate.precision, ONNXRUNTIME_CPU, args))
    return variants, left_out


def _make_network_variants(subject: "Subject", args: argparse.Namespace, left_out: dict[str, str]) -> "list[Variant]":
    """Return PyTorch on the CPU, and on the GPU if there is one; if there is no PyTorch, write why into `left_out`."""
    from streamd.tools.engine.bench.measure import Variant
    from streamd.tools.engine.gate.runners import NetworkRunner
    from streamd.tools.networks.weights import WEIGHTS_FILE, load_network

    folder = subject.source.folder
    if folder is None or not (folder / WEIGHTS_FILE).is_file():
        left_out["pytorch"] = "no weights in safetensors beside the graph"
        return []
    try:
        load_network(folder)
        import torch
    except (ImportError, StreamdError) as exc:
        left_out["pytorch"] = str(exc)
        return []

    def make_variant(device: str) -> Variant:
        def open_lanes(lanes: int) -> "list[Runner]":
            networks = [load_network(folder).network for _ in range(lanes)]
            return [NetworkRunner(network, subject.signature, device, args.threads) for network in networks]

        return Variant(f"pytorch-{device}", "fp32", open_lanes)

    return [make_variant(device) for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))]


def _make_graph_variant(graph: Path, precision: str, backend: str, args: argparse.Namespace) -> "Variant":
    from streamd.tools.engine.bench.measure import Variant
    from streamd.tools.engine.gate.runners import open_separate_lanes

    options = {"threads": args.threads, "devices": (args.device,), "buckets": args.batches}
    return Variant(backend, precision, lambda lanes: open_separate_lanes(graph, backend, lanes, **options))


def _make_plan_variant(candidate: "GateTarget", args: argparse.Namespace) -> "Variant":
    from streamd.tools.engine.bench.measure import Variant
    from streamd.tools.engine.gate.runners import open_candidate

    sizes = tuple(size for size in args.batches if size in candidate.buckets) or candidate.buckets[:1]
    options = {"device": args.device, "lean_runtime": args.lean_runtime, "buckets": sizes or args.batches}
    return Variant(
        TENSORRT, candidate.precision, lambda lanes: open_candidate(candidate, lanes=lanes, **options).runners, sizes
    )


def _measure(subject: "Subject", args: argparse.Namespace, progress: "Progress") -> dict[str, Any]:
    """Measure all variants; return the content of `benchmark_results.json`."""
    from streamd.tools.engine.bench.hardware import DeviceMonitor, describe_hardware
    from streamd.tools.engine.bench.measure import Bench
    from streamd.tools.engine.gate.truth import read_judged_windows
    from streamd.tools.engine.output.folders import list_installed_packages

    variants, left_out = list_variants(subject, args)
    judged = read_judged_windows(args.data, subject.signature, subject.contract, max(args.batches))
    _refuse_dependent_rows(subject, judged)
    monitor = DeviceMonitor(args.device)
    settings = {"turn_seconds": args.seconds, "turns": args.turns}
    with Bench(variants, judged.windows, args.lanes, monitor, **settings) as bench:
        with progress.start_job("measuring", 0) as job:
            cells = bench.run_cells(args.batches, job.advance_to)
        left_out |= bench.failed
    return {
        "version": subject.name,
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "command": args.command_line,
        "hardware": describe_hardware(args.device),
        "versions": list_installed_packages(),
        "settings": {**settings, "threads_per_cpu_lane": args.threads, "windows": judged.about},
        "left_out": left_out,
        "not_measured": [*NOT_MEASURED, *monitor.missing],
        "results": [cell.describe() for cell in cells],
    }


def _refuse_dependent_rows(subject: "Subject", judged: "JudgedWindows") -> None:
    """Raise `BuildError` if a row's answer depends on the rest of its batch: no measurement would mean anything."""
    from streamd.tools.engine.gate.judge import Judge
    from streamd.tools.engine.gate.runners import run_alone_and_batched

    some = {name: values[:DEPENDENCE_WINDOWS] for name, values in judged.windows.items()}
    alone, batched = run_alone_and_batched(subject.onnx, some)
    judge = Judge(judged, alone, subject.contract, batched)
    if judge.dependence_reasons:
        raise BuildError(f"{subject.name}: {'; '.join(judge.dependence_reasons)}")


def _write_results(subject: "Subject", args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write the three files into the version, or into `--out`; raises `RepositoryError`."""
    from streamd.repository.files import replace_file
    from streamd.tools.engine.bench.picture import draw_bench_picture
    from streamd.tools.engine.bench.report import format_bench_page
    from streamd.tools.engine.gate.recording import write_unlisted_file
    from streamd.tools.engine.output.atomic_version import make_writable_folder

    folder = subject.source.folder
    files = {
        "benchmark_results.json": json.dumps(results, indent=2) + "\n",
        "benchmark.md": format_bench_page(results),
        "benchmark.svg": draw_bench_picture(results),
    }
    if args.out is not None:
        make_writable_folder(args.out)
    for name, text in files.items():
        if args.out is not None:
            replace_file(args.out / name, text.encode())
        elif folder is not None:
            write_unlisted_file(folder, name, text.encode())
