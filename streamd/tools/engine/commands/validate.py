"""`streamd engine validate`: the accuracy gate, on every precision that a version holds and this machine runs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamd.core.errors import BackendUnavailableError, ConfigError, StreamdError
from streamd.tools.engine.commands.common import add_common_arguments
from streamd.tools.engine.flags import parse_precisions

if TYPE_CHECKING:
    from streamd.tools.engine.gate.blame import Blame
    from streamd.tools.engine.gate.judge import GateVerdict, Judge
    from streamd.tools.engine.gate.targets import GateTarget, Subject
    from streamd.tools.engine.gate.truth import JudgedWindows
    from streamd.tools.engine.progress import Progress

FORECASTER_WINDOWS, OTHER_WINDOWS = 256, 16
"""Default number of windows to judge a forecaster on, and any other network."""

DESCRIPTION = """\
Judge each precision against float32 on ONNX Runtime's CPU, on real windows, some with missing rows and features.
The reference for each row is the answer to that row alone: a network or a plan whose answers change with the rest of
the batch is refused.

Every target needs a correlation of at least 0.999 and bounded relative errors (for fp32 itself 1e-3). Over all targets,
the pinball loss against the values that really followed each window may be 0.1 % worse in fp16 and bf16, 1 % in int8.
The verdicts are written into conversion_info.json, and a precision that fails is never promoted or chosen. If one
fails, the nodes of its graph are compared too, and those to blame are named.
Any other network is judged output by output, on --data or on random inputs, without a pinball loss.
Needs the extra `build`: pip install 'streamd[build]'.
"""

EXAMPLES = """\
examples:
  streamd engine validate patch_tensorrt_20261129_232000
  streamd engine validate engines/patch_tensorrt_20261129_232000 --precision fp16 --data fleet.parquet --windows 512
  streamd engine validate --onnx model.onnx --plans plans/ --json
exit status here: 0 every precision passes; 1 one fails or does not run; 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_subject_arguments(parser)
    parser.add_argument("--precision", type=parse_precisions, metavar="P,...",
                        help="precisions to judge [default: all that can run here]")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="windows: a fleet (.csv, .csv.gz, .parquet) or an .npz of inputs"
                             " [default: examples/fleet]")  # fmt: skip
    parser.add_argument("--windows", type=int, metavar="N",
                        help=f"number of windows, at most [default: {FORECASTER_WINDOWS}; {OTHER_WINDOWS} for a network"
                             " that is no forecaster]")  # fmt: skip
    parser.add_argument("--no-record", action="store_true", help="a report only; no verdict is written")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU for plans [default: 0]")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subject: a version, or any ONNX file with the plans made of it; and the format of the answer."""
    parser.add_argument("version", nargs="?", metavar="VERSION", help="an engine version: its name, or its folder")
    add_common_arguments(parser)
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="any ONNX model instead of a version")
    parser.add_argument("--plans", type=Path, metavar="DIR", help="folder that `build --onnx --plans-only DIR` made")
    parser.add_argument("--config", type=Path, metavar="FILE", help="manifest of --onnx, if it is a forecaster")
    parser.add_argument("--lean-runtime", type=Path, metavar="FILE",
                        help="libnvinfer_lean.so.N, for version-compatible plans of an older TensorRT")  # fmt: skip


def read_requested_subject(args: argparse.Namespace) -> "Subject":
    """Read the subject that the arguments name; raises `StreamdError`."""
    from streamd.tools.engine.gate.targets import find_version, read_subject

    if (args.version is None) == (args.onnx is None):
        raise ConfigError("give one of VERSION and --onnx FILE")
    if args.version is not None and (args.plans or args.config):
        raise ConfigError("--plans and --config belong to --onnx; a version has its own")
    version = find_version(args.version, args.engines) if args.version is not None else None
    return read_subject(
        version, args.onnx, args.probe(), plans=args.plans, config=args.config, precisions=args.precision
    )


def main(args: argparse.Namespace) -> int:
    """Judge, and return the exit status. Raises `StreamdError`."""
    from contextlib import nullcontext

    from streamd.repository.files import VersionHold
    from streamd.tools.engine.gate.recording import record_verdicts
    from streamd.tools.engine.gate.report import format_gate_table, format_log_lines
    from streamd.tools.engine.gate.truth import read_judged_windows
    from streamd.tools.engine.progress import Progress

    if args.windows is not None and args.windows < 1:
        raise ConfigError(f"--windows {args.windows}: expected 1 or more")
    subject = read_requested_subject(args)
    folder = subject.source.folder
    with VersionHold(folder) if folder else nullcontext():
        count = args.windows or (FORECASTER_WINDOWS if subject.contract else OTHER_WINDOWS)
        judged = read_judged_windows(args.data, subject.signature, subject.contract, count)
        entries, failed = _judge_all(subject, judged, args, Progress(quiet=args.quiet))
        if subject.record and entries and not args.no_record:
            record_verdicts(subject.record, entries, format_log_lines(entries))
    if not entries:
        raise BackendUnavailableError("; ".join(failed.values()))
    result = {"version": subject.name, "validation": entries, "passed_over": subject.passed_over, "failed": failed}
    print(json.dumps(result, indent=2) if args.json else format_gate_table(result))
    return 0 if not failed and all(each["promotable"] for each in entries.values()) else 1


def _judge_all(
    subject: "Subject", judged: "JudgedWindows", args: argparse.Namespace, progress: "Progress"
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the record's entry for each precision, and the reason for each that does not run.

    One that does not run does not keep the others from being judged.
    """
    from streamd.tools.engine.gate.judge import Judge
    from streamd.tools.engine.gate.runners import run_alone_and_batched

    entries: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    progress.print_line(f"{subject.name}: {judged.about}")
    alone, batched = run_alone_and_batched(subject.onnx, judged.windows)
    judge = Judge(judged, alone, subject.contract, batched)
    with progress.start_job("validating", len(subject.candidates)) as job:
        for done, candidate in enumerate(subject.candidates):
            try:
                entries[candidate.precision] = _judge_candidate(subject, candidate, judge, args)
            except StreamdError as exc:
                failed[candidate.precision] = str(exc)
            job.advance_to(done + 1)
    return entries, failed


def _judge_candidate(
    subject: "Subject", candidate: "GateTarget", judge: "Judge", args: argparse.Namespace
) -> dict[str, Any]:
    """Judge one candidate with single rows and at each of its batch sizes; return the record's entry.

    TensorRT optimizes each profile of a plan separately, so one batch size may be wrong while the others are right.
    """
    from contextlib import closing

    from streamd.repository.conversion import hash_file
    from streamd.tools.engine.gate.runners import open_candidate, run_windows

    windows = judge.judged.windows
    opened = open_candidate(candidate, device=args.device, lean_runtime=args.lean_runtime)
    with closing(opened.runners[0]) as runner:
        sizes = sorted({1, *runner.buckets})  # single rows too, which a plan may pad
        verdicts = {
            size: judge.judge_outputs(candidate.precision, run_windows(runner, windows, size)) for size in sizes
        }
    worst = min(verdicts.values(), key=_rank_verdict)
    entry = {
        **worst.describe(),
        "file": candidate.path.name,
        "sha256": hash_file(candidate.path),
        "backend": opened.backend,
        "batch_sizes": sizes,
        "failed_batch_sizes": [size for size, verdict in verdicts.items() if not verdict.promotable],
        "data": judge.judged.about,
    }
    return entry if worst.promotable else {**entry, "blame": _describe_blame(subject, candidate, judge)}


def _rank_verdict(verdict: "GateVerdict") -> tuple[bool, float]:
    """Return a key that sorts verdicts, the worst first."""
    return verdict.promotable, -verdict.worst.relative_error


def _describe_blame(subject: "Subject", candidate: "GateTarget", judge: "Judge") -> dict[str, Any]:
    """Return the nodes that make a candidate fail, or under `unknown` the reason why they are not known."""
    from streamd.tools.engine.gate.blame import find_blame

    if judge.dependence_reasons:
        return {"unknown": "the rows of the network itself depend on each other, in any precision"}
    lower, why = _read_lower_graph(subject, candidate)
    if lower is None:
        return {"unknown": why}
    found: Blame = find_blame(subject.model, lower, judge.judged.windows)
    first = str(found.first) if found.first else None
    blame = {"first": first, "worst": [str(layer) for layer in found.worst]}
    if candidate.kind == "plan" and _graph_passes(lower, candidate.precision, judge):
        return {"plan": "its graph passes on ONNX Runtime: the error is in how the plan was built", **blame}
    return blame


def _graph_passes(graph: Any, precision: str, judge: "Judge") -> bool:
    """Whether a graph that a plan was built from passes on ONNX Runtime."""
    from tempfile import TemporaryDirectory

    from streamd.tools.engine.gate.runners import run_graph
    from streamd.tools.engine.graph.onnx_graph import serialize_graph

    with TemporaryDirectory() as folder:
        path = Path(folder) / "lower.onnx"
        path.write_bytes(serialize_graph(graph, path.name))
        return judge.judge_outputs(precision, run_graph(path, judge.judged.windows)).promotable


def _read_lower_graph(subject: "Subject", candidate: "GateTarget") -> tuple[Any, str]:
    """Return the graph that a candidate is, or was built from; or None, and the reason why it is not known."""
    from streamd.tools.engine.graph.onnx_graph import fold_constants, read_graph
    from streamd.tools.engine.graph.optional_inputs import require_inputs
    from streamd.tools.engine.precision.kept_nodes import KeptNodes, convert_to_half

    saved_graph = candidate.path.with_suffix(".onnx")
    if candidate.precision == "fp32":
        return None, "fp32 is the graph itself: the error is in the backend"
    if candidate.precision == "bf16":
        return None, "ONNX Runtime has no bfloat16 kernels to compare with"
    if saved_graph.is_file():
        return require_inputs(read_graph(saved_graph), subject.source.defaults.keys()), ""
    if candidate.precision == "fp16":
        return convert_to_half(fold_constants(subject.model), KeptNodes(candidate.entry.get("kept_because", {}))), ""
    return None, "its graph was not kept: build it with --keep-graphs to compare the nodes"
