"""Run the GPU benchmarks: sections in the given order, each with a JSON file under --out.

A section that fails does not stop the others; the exit status is 1 if any part failed.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu.harness import BUCKETS, ROOT, Suite, describe_environment, find_versions

SECTIONS = {
    "naive": "benchmarks.gpu.naive",
    "correctness": "benchmarks.gpu.correctness",
    "throughput": "benchmarks.gpu.throughput",
    "resident": "benchmarks.gpu.resident",
    "timeline": "benchmarks.gpu.timeline",
    "wakeup": "benchmarks.gpu.wakeup",
    "faults": "benchmarks.gpu.faults",
    "memory": "benchmarks.gpu.memory",
    "two_gpus": "benchmarks.gpu.two_gpus",
    "daemon": "benchmarks.gpu.daemon",
    "reload": "benchmarks.gpu.reload",
}
DEFAULT_SECTIONS = ("correctness", "throughput", "timeline", "wakeup", "faults")


def main(arguments: list[str] | None = None) -> int:
    """Run the requested sections; returns the exit status."""
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.switch_interval:
        sys.setswitchinterval(args.switch_interval)
    suite = Suite(args, find_versions(args.engines, args.only))
    facts = describe_environment()
    print(f"{facts['date']}  {facts['gpus'] or 'no GPU'}  {facts['packages']}")
    for name in args.sections:
        print(f"\n===== {name}", flush=True)
        with suite.run_part(name):
            importlib.import_module(SECTIONS[name]).run(suite)
    for failure in suite.failures:
        print(f"FAILED  {failure}")
    return 1 if suite.failures else 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line; exits with 2, as argparse does, if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.run", description=__doc__)
    parser.add_argument(
        "--engines", type=Path, default=ROOT / "engines", help="folder of engine versions [default: engines]"
    )
    parser.add_argument(
        "--plans", type=Path, help="folder of plans, as <version>/model_<precision>.engine [default: --engines]"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--sections",
        type=_parse_sections,
        default=list(DEFAULT_SECTIONS),
        help=f"sections to run, or all: {', '.join(SECTIONS)} [default: {','.join(DEFAULT_SECTIONS)}]",
    )
    parser.add_argument(
        "--only", type=_parse_names, default=[], help="versions whose names begin so, such as patch,tft [default: all]"
    )
    parser.add_argument(
        "--precisions", type=_parse_names, default=["fp16"], help="precisions to measure [default: fp16]"
    )
    parser.add_argument(
        "--backend",
        choices=("tensorrt", "onnxruntime-cpu", "fake"),
        default="tensorrt",
        help="backend to measure [default: %(default)s]",
    )
    parser.add_argument(
        "--buckets",
        type=_parse_numbers,
        default=BUCKETS,
        help=f"batch sizes to measure [default: {','.join(map(str, BUCKETS))}]",
    )
    parser.add_argument("--max-lanes", type=int, default=8, help="largest number of lanes [default: %(default)s]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="time for each cell, all of its turns together [default: %(default)g]",
    )
    parser.add_argument(
        "--windows", type=int, default=2000, help="number of windows of the correctness check [default: %(default)s]"
    )
    parser.add_argument(
        "--servers",
        type=int,
        default=20_000,
        help="number of servers in the window store, and in the daemon's fleet [default: %(default)s]",
    )
    parser.add_argument(
        "--switch-interval",
        type=float,
        default=1e-3,
        help="interpreter's switch interval, in seconds [default: %(default)s, as the daemon's]",
    )
    _add_daemon(parser.add_argument_group("daemon"))
    args = parser.parse_args(arguments)
    args.plans = args.plans or args.engines
    return args


def _add_daemon(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cadence", type=float, default=5.0, help="seconds between the rows of a server [default: %(default)g]"
    )
    group.add_argument(
        "--daemon-seconds",
        type=float,
        default=60.0,
        help="length of the first fleet's measured stretch [default: %(default)g]",
    )
    group.add_argument(
        "--growth-seconds",
        type=float,
        default=10.0,
        help="length of each larger fleet's measured stretch [default: %(default)g]",
    )
    group.add_argument(
        "--fleets",
        type=_parse_numbers,
        default=(60_000, 120_000, 180_000, 240_000),
        help="numbers of servers of the larger fleets [default: 60000,120000,180000,240000]",
    )
    group.add_argument(
        "--p99-limit-ms",
        type=float,
        default=250.0,
        help="latency above which no larger fleet runs [default: %(default)g]",
    )
    group.add_argument("--scratch", type=Path, help="folder for the daemon's state [default: the temporary folder]")
    group.add_argument(
        "--replay-processes", type=int, default=4, help="number of processes of the load test [default: %(default)s]"
    )
    group.add_argument(
        "--replay-arguments",
        default="",
        help="further options of the load test, such as '--every 12' [default: no options]",
    )
    group.add_argument(
        "--daemon-settings",
        type=_parse_names,
        default=[],
        help="settings of the daemon, as KEY=VALUE,... [default: built in]",
    )


def _parse_sections(text: str) -> list[str]:
    names = list(SECTIONS) if text == "all" else _parse_names(text)
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}: expected some of {', '.join(SECTIONS)}")
    return names


def _parse_names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
