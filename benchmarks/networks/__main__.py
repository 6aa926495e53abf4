"""Networks of others as engines: exported by an interpreter that has PyTorch, checked by one that has TensorRT.

python3 -m benchmarks.networks export --out models/ [--networks clip,detr]
python -m benchmarks.networks check --models models/ --out results/ [--backend onnxruntime-cpu]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

NAMES = ("mlp", "cnn", "unet3d", "clip", "detr")


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    asked = parse(arguments)
    if asked.command == "export":
        from benchmarks.networks.export import export_all

        export_all(asked.networks or NAMES, asked.out)
        return 0
    if asked.command == "check":
        from benchmarks.networks.check import check_all

        return check_all(asked)
    from benchmarks.networks.judge import judge

    json.dump(judge(asked), sys.stdout)
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read a command line; exits with 2, as argparse does, when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="ONNX files with random weights, and what PyTorch makes of some rows")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--networks", type=_names, help=f"default: {','.join(NAMES)}")
    check = commands.add_parser("check", help="build plans, compare them, time them")
    check.add_argument("--models", type=Path, required=True, help="what export wrote")
    check.add_argument("--out", type=Path, required=True, help="for networks.json (what it holds is kept) and plans")
    check.add_argument("--networks", type=_names, help="default: all that were exported")
    check.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "fp16"])
    check.add_argument("--backend", default="tensorrt", help="tensorrt builds plans; others run the graph as it is")
    check.add_argument("--bucket", type=int, default=8, help="batch size (8)")
    check.add_argument("--windows", type=int, default=2, help="rows compared with half precision; 0: none (2)")
    check.add_argument("--optimization-level", type=int, choices=range(6), help="how long TensorRT searches")
    check.add_argument("--build-seconds", type=float, default=240.0, help="time limit of one build (240)")
    check.add_argument("--judge-seconds", type=float, default=180.0, help="time limit of comparing and timing (180)")
    judge = commands.add_parser("judge", help="compare and time one engine, as JSON; check runs this")
    judge.add_argument("network", choices=NAMES)
    judge.add_argument("--models", type=Path, required=True)
    judge.add_argument("--plans", type=Path)
    judge.add_argument("--backend", default="tensorrt")
    judge.add_argument("--precision", default="fp32")
    judge.add_argument("--bucket", type=int, default=8)
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
