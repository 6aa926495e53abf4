"""`streamd engine ship`: the whole path from trained weights to a promoted version; it ends at what fails."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from streamd.core.errors import BuildError
from streamd.tools.engine.flags import parse_precisions

DESCRIPTION = """\
Export, build, validate and promote: from trained weights in safetensors to the version that serves from the daemon's
next start, in one go.

It is the four commands one after the other, and stops with the first that fails: nothing is promoted that did not
pass the accuracy gate in every precision. What was made until then stays for a look; `streamd engine gc` removes it.
Needs the extras `build` and `train`: pip install 'streamd[build,train]'.
"""

EXAMPLES = """\
examples:
  streamd engine ship engines/patch_tensorrt_20261121_160844 --backend onnxruntime --precision fp32,int8 \\
      --calibration-data examples/fleet/servers.csv.gz --why "first int8"
  streamd engine ship runs/patch --precision fp32,fp16 --calibration-data fleet.parquet --engines /opt/streamd/engines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="as for export: a run, a version, or a file")
    parser.add_argument("--engines", type=Path, default=Path("engines"), metavar="DIR",
                        help="folder of engine versions (engines)")  # fmt: skip
    parser.add_argument("--name", help="of the new version, before _tensorrt_<stamp> (the source's)")
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt", help="(tensorrt)")
    parser.add_argument(
        "--precision", type=parse_precisions, default=("fp32", "fp16"), metavar="P,...", help="(fp32,fp16)"
    )
    parser.add_argument("--calibration-data", type=Path, metavar="FILE", help="real windows, as for build")
    parser.add_argument("--num-calibration-samples", type=int, default=500, metavar="N", help="windows at most (500)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="windows to judge on (examples/fleet)")
    parser.add_argument("--windows", type=int, default=256, metavar="N", help="to judge on, at most (256)")
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the record")
    parser.add_argument("--json", action="store_true", help="tell all results as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Go the whole path; returns the exit status of the step that it ended with. Raises `StreamdError`."""
    from streamd.tools.engine.gate.report import format_gate_table

    engines = ["--engines", str(args.engines)]
    quiet = ["--quiet"] if args.quiet else []
    named = ["--name", args.name] if args.name else []
    data = ["--data", str(args.data)] if args.data else []
    calibration = ["--calibration-data", str(args.calibration_data)] if args.calibration_data else []
    calibration += ["--num-calibration-samples", str(args.num_calibration_samples)]

    _tell(args, "1 of 4: export")
    status, exported = _run("export", [str(args.weights), "--out", str(args.engines), *named, *data, *quiet])
    _tell(args, "2 of 4: build")
    wanted = ["--backend", args.backend, "--precision", ",".join(args.precision)]
    status, built = _run("build", ["--version", exported["folder"], *wanted, *calibration, *quiet])
    version = Path(built["folder"]).name
    _tell(args, "3 of 4: validate")
    status, judged = _run("validate", [version, "--windows", str(args.windows), *engines, *data, *quiet])
    _tell(args, format_gate_table(judged))
    done = {"version": version, "export": exported, "build": built, "validate": judged}
    if status == 0:
        _tell(args, "4 of 4: promote")
        status, done["promote"] = _run("promote", [version, "--why", args.why, *engines])
    said = json.dumps(done, indent=2) if args.json else built["folder"]
    print(said)
    return status


def _run(name: str, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """A step's exit status, and what it tells with `--json`; raises `StreamdError`."""
    from streamd.tools.engine.command import run_subcommand

    with contextlib.redirect_stdout(io.StringIO()) as told:
        status = run_subcommand(f"streamd engine {name}", name, [*arguments, "--json"])
    try:
        result: dict[str, Any] = json.loads(told.getvalue())
    except ValueError as exc:
        raise BuildError(f"streamd engine {name} ended with {status} and told nothing") from exc
    return status, result


def _tell(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(text, file=sys.stderr)
