"""`streamd engine ship`: the whole path from trained weights to a promoted version; it ends at the first failure."""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from streamd.core.errors import BuildError
from streamd.tools.engine.commands.validate import FORECASTER_WINDOWS
from streamd.tools.engine.flags import parse_precisions

DESCRIPTION = """\
Export, build, validate and promote: from trained weights in safetensors to the version that serves from the daemon's
next start or reload, in one go.

The four commands run one after another, and the first failure ends the run: nothing is promoted unless every precision
passed the accuracy gate. What was made until then stays, so that you can examine it; `streamd engine gc` removes it.
Needs the extras `build` and `train`: pip install 'streamd[build,train]'.
"""

EXAMPLES = """\
examples:
  streamd engine ship engines/patch_tensorrt_20261129_232000 --backend onnxruntime --precision fp32 --why "trained anew"
  streamd engine ship runs/patch --precision fp32,fp16 --calibration-data fleet.parquet --engines /opt/streamd/engines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("weights", type=Path, metavar="WEIGHTS",
                        help="trained weights, as for export: a run, a version, or a file")  # fmt: skip
    parser.add_argument("--engines", type=Path, default=Path("engines"), metavar="DIR",
                        help="folder of engine versions [default: engines]")  # fmt: skip
    parser.add_argument("--name", help="name of the new version, before _tensorrt_<stamp> [default: the source's]")
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt",
                        help="library that is to run the version [default: tensorrt]")  # fmt: skip
    parser.add_argument("--precision", type=parse_precisions, default=("fp32", "fp16"), metavar="P,...",
                        help="precisions to build [default: fp32,fp16]")  # fmt: skip
    parser.add_argument("--calibration-data", type=Path, metavar="FILE", help="real windows, as for build")
    parser.add_argument("--num-calibration-samples", type=int, default=500, metavar="N",
                        help="number of calibration windows, at most [default: %(default)s]")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="windows to judge on, as for validate [default: examples/fleet]")  # fmt: skip
    parser.add_argument("--windows", type=int, default=FORECASTER_WINDOWS, metavar="N",
                        help="number of windows to judge on, at most [default: %(default)s]")  # fmt: skip
    parser.add_argument("--why", default="", metavar="TEXT", help="reason, for the record [default: empty]")
    parser.add_argument("--json", action="store_true", help="all results as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Run the four steps and return the exit status of the last one that ran. Raises `StreamdError`."""
    from streamd.tools.engine.gate.report import format_gate_table

    engines = ["--engines", str(args.engines)]
    quiet = ["--quiet"] if args.quiet else []
    name = ["--name", args.name] if args.name else []
    data = ["--data", str(args.data)] if args.data else []
    calibration = ["--calibration-data", str(args.calibration_data)] if args.calibration_data else []
    calibration += ["--num-calibration-samples", str(args.num_calibration_samples)]

    _print_progress(args, "1 of 4: export")
    status, exported = _run_step("export", [str(args.weights), "--out", str(args.engines), *name, *data, *quiet])
    _print_progress(args, "2 of 4: build")
    kind = ["--backend", args.backend, "--precision", ",".join(args.precision)]
    status, built = _run_step("build", ["--version", exported["folder"], *kind, *calibration, *quiet])
    version = Path(built["folder"]).name
    _print_progress(args, "3 of 4: validate")
    status, judged = _run_step("validate", [version, "--windows", str(args.windows), *engines, *data, *quiet])
    _print_progress(args, format_gate_table(judged))
    results = {"version": version, "export": exported, "build": built, "validate": judged}
    if status == 0:
        _print_progress(args, "4 of 4: promote")
        status, results["promote"] = _run_step("promote", [version, "--why", args.why, *engines])
    print(json.dumps(results, indent=2) if args.json else built["folder"])
    return status


def _run_step(name: str, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Run one command; return its exit status and its `--json` output. Raises `StreamdError`."""
    from streamd.tools.engine.command import run_subcommand

    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = run_subcommand(f"streamd engine {name}", name, [*arguments, "--json"])
    try:
        result: dict[str, Any] = json.loads(output.getvalue())
    except ValueError as exc:
        raise BuildError(f"streamd engine {name} ended with {status} and printed no result") from exc
    return status, result


def _print_progress(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(text, file=sys.stderr)
