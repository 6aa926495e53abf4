"""Measure the daemon on this machine in one run, as a table and as JSON: `make bench`."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # As a script, Python puts this folder on the path; the benchmarks are imported from its parent.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import agents, ingest, memory, throughput
from benchmarks.harness import describe_machine, print_table, write_result


def main() -> int:
    """Run every benchmark, or those of `--only`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        choices=("ingest", "agents", "throughput", "memory"),
        action="append",
        help="benchmark to run; may be repeated [default: all]",
    )
    parser.add_argument(
        "--engine", default="", help="engine version to measure [default: the one that serves by default]"
    )
    args = parser.parse_args()
    chosen = args.only or ["ingest", "agents", "throughput", "memory"]
    result: dict[str, Any] = {"machine": describe_machine(), "command": "make bench"}
    print("On " + ", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    if "ingest" in chosen:
        result["ingest_samples_per_cpu_second"] = figures = asyncio.run(ingest.measure())
        _print_ingest(figures)
    if "agents" in chosen:
        result["agents_per_cpu_second"] = paths = asyncio.run(agents.measure())
        agents.print_agents(paths)
    if "throughput" in chosen:
        result["throughput"] = forecasts = asyncio.run(throughput.measure(args.engine))
        _print_throughput(forecasts)
    if "memory" in chosen:
        result["memory_bytes_per_server"] = each = asyncio.run(memory.measure())
        rows = [(kind, f"{value:,.0f}") for kind, value in each.items()]
        print_table("Memory a server (full window, one forecast)", ("kind", "bytes"), rows)
    print(f"\nwritten to {write_result('daemon', result).relative_to(Path.cwd())}")
    return 0


def _print_ingest(figures: dict[str, dict[str, float]]) -> None:
    rows = [
        (form, *(f"{each[kind]:,.0f}" for kind in ("daemon", "counting_handler", "decode_alone")))
        for form, each in figures.items()
    ]
    print_table(
        "Samples a CPU second (14 values each)", ("form", "daemon", "handler that counts", "decoding alone"), rows
    )
    print("  Not measured: TLS, a network, many connections, forecasts.")


def _print_throughput(figures: dict[str, Any]) -> None:
    rows = [
        (turn, f"{ours:,.1f}", f"{theirs:,.1f}", f"{ratio:.3f}")
        for turn, (ours, theirs, ratio) in enumerate(
            zip(
                figures["daemon_forecasts_per_second"],
                figures["in_process_forecasts_per_second"],
                figures["ratios"],
                strict=True,
            ),
            start=1,
        )
    ]
    title = f"Forecasts a second: {figures['engine']}, {figures['lanes']} lanes, batches of {figures['mean_batch']}"
    print_table(title, ("turn", "whole daemon", "model in-process", "ratio"), rows)
    share = figures["client_share_of_machine"]
    print(f"  median ratio {figures['ratio']:.3f} (goal: at least 0.9); the client took {share:.1%} of the machine.")
    print("  Not measured: a network, JSON, latency.")


if __name__ == "__main__":
    sys.exit(main())
