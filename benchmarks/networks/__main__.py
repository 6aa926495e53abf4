"""Published networks as engines: exported by an interpreter that has PyTorch, checked by one that has TensorRT.

python3 -m benchmarks.networks export --out models/ [--networks clip,detr]
python -m benchmarks.networks check --models models/ --out results/ [--backend onnxruntime-cpu]
"""

import argparse
import json
import sys
from pathlib import Path

NAMES = ("mlp", "cnn", "unet3d", "clip", "detr")


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    args = parse(arguments)
    if args.command == "export":
        from benchmarks.networks.export import export_all

        export_all(args.networks or NAMES, args.out)
        return 0
    if args.command == "check":
        from benchmarks.networks.check import check_all

        return check_all(args)
    from benchmarks.networks.judge import judge

    json.dump(judge(args), sys.stdout)
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line; exits with 2, as argparse does, if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser(
        "export", help="write ONNX files with random weights, and PyTorch's results for some rows"
    )
    export.add_argument("--out", type=Path, required=True, help="folder for the files")
    export.add_argument("--networks", type=_parse_names, help=f"networks to export [default: {','.join(NAMES)}]")
    check = commands.add_parser("check", help="build plans, compare and time them")
    check.add_argument("--models", type=Path, required=True, help="folder that export wrote")
    check.add_argument(
        "--out", type=Path, required=True, help="folder for plans and networks.json, to which results are added"
    )
    check.add_argument("--networks", type=_parse_names, help="networks to check [default: all that were exported]")
    check.add_argument(
        "--precisions",
        type=lambda text: text.split(","),
        default=["fp32", "fp16"],
        help="precisions to build [default: fp32,fp16]",
    )
    check.add_argument(
        "--backend",
        default="tensorrt",
        help="backend to check: tensorrt builds plans, others run the graph [default: %(default)s]",
    )
    check.add_argument("--bucket", type=int, default=8, help="batch size [default: %(default)s]")
    check.add_argument(
        "--windows",
        type=int,
        default=2,
        help="rows on which half precision is compared; 0 compares none [default: %(default)s]",
    )
    check.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="effort of TensorRT's search [default: that of `streamd engine build`]",
    )
    check.add_argument(
        "--build-seconds", type=float, default=240.0, help="time limit of one build [default: %(default)g]"
    )
    check.add_argument(
        "--judge-seconds",
        type=float,
        default=180.0,
        help="time limit of comparing and timing [default: %(default)g]",
    )
    judge = commands.add_parser("judge", help="compare and time one engine, as JSON; check runs this")
    judge.add_argument("network", choices=NAMES, help="network to judge")
    judge.add_argument("--models", type=Path, required=True, help="folder that export wrote")
    judge.add_argument("--plans", type=Path, help="folder of its plans [default: no plans]")
    judge.add_argument("--backend", default="tensorrt", help="backend to judge [default: %(default)s]")
    judge.add_argument("--precision", default="fp32", help="precision of the plan [default: %(default)s]")
    judge.add_argument("--bucket", type=int, default=8, help="batch size [default: %(default)s]")
    return parser.parse_args(arguments)


def _parse_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
