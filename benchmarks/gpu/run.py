"""The GPU benchmarks from one command line: sections in the order given, each kept as JSON under --out.

One section that fails does not take the others with it; the exit status is 1 where any part failed.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu.harness import BUCKETS, ROOT, Suite, environment, find_versions

SECTIONS = {
    "naive": "benchmarks.gpu.naive",
    "correctness": "benchmarks.gpu.correctness",
    "throughput": "benchmarks.gpu.throughput",
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
    """Run the sections that were asked for."""
    asked = parse(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.switch_interval:
        sys.setswitchinterval(asked.switch_interval)
    suite = Suite(asked, find_versions(asked.engines, asked.only))
    facts = environment()
    print(f"{facts['date']}  {facts['gpus'] or 'no GPU'}  {facts['packages']}")
    for name in asked.sections:
        print(f"\n===== {name}", flush=True)
        with suite.part(name):
            importlib.import_module(SECTIONS[name]).run(suite)
    for failure in suite.failures:
        print(f"FAILED  {failure}")
    return 1 if suite.failures else 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read a command line; exits with 2, as argparse does, when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.run", description=__doc__)
    parser.add_argument("--engines", type=Path, default=ROOT / "engines", help="folder of engine versions")
    parser.add_argument("--plans", type=Path, help="<plans>/<version>/model_<precision>.engine (default: engines)")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--sections", type=_sections, default=list(DEFAULT_SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--only", type=_names, default=[], help="versions by the beginning of their name: patch,tft")
    parser.add_argument("--precisions", type=_names, default=["fp16"], help="default: fp16")
    parser.add_argument("--backend", choices=("tensorrt", "onnxruntime-cpu", "fake"), default="tensorrt")
    parser.add_argument("--buckets", type=_numbers, default=BUCKETS)
    parser.add_argument("--max-lanes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="a cell, all of its turns together")
    parser.add_argument("--windows", type=int, default=2000, help="of the correctness check")
    parser.add_argument("--servers", type=int, default=20_000, help="in the window store, and of the daemon's fleet")
    parser.add_argument(
        "--switch-interval", type=float, default=1e-3, help="sys.setswitchinterval (the daemon's: 0.001)"
    )
    _add_daemon(parser.add_argument_group("daemon"))
    asked = parser.parse_args(arguments)
    asked.plans = asked.plans or asked.engines
    return asked


def _add_daemon(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--cadence", type=float, default=5.0, help="seconds between a server's rows")
    group.add_argument("--daemon-seconds", type=float, default=60.0, help="the first fleet's measured stretch")
    group.add_argument("--growth-seconds", type=float, default=10.0, help="each larger fleet's measured stretch")
    group.add_argument("--fleets", type=_numbers, default=(60_000, 120_000, 180_000, 240_000))
    group.add_argument("--p99-limit-ms", type=float, default=250.0)
    group.add_argument("--scratch", type=Path, help="where the daemon's state lies (default: the temporary folder)")
    group.add_argument("--replay-processes", type=int, default=4)
    group.add_argument("--replay-arguments", default="", help="more for scripts/replay.py, as '--every 12'")
    group.add_argument("--daemon-settings", type=_names, default=[], help="KEY=VALUE,... over the defaults")


def _sections(text: str) -> list[str]:
    names = list(SECTIONS) if text == "all" else _names(text)
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}: expected some of {', '.join(SECTIONS)}")
    return names


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
