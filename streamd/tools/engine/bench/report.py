"""Formats a benchmark's results: a table for the terminal, and a page in Markdown. It measures nothing."""

from collections.abc import Mapping
from typing import Any

from streamd.tools.engine.text_table import align_columns

BENCH_HEADER = (
    *("batch", "lanes", "variant", "windows/s", "speed-up", "mean ms", "std", "min", "p50", "p95", "p99", "max"),
    *("GPU MiB", "GPU %"),
)
LATENCIES = ("mean", "std", "min", "p50", "p95", "p99", "max")
BASELINE_VARIANTS = ("pytorch-cuda fp32", "pytorch-cpu fp32", "onnxruntime-cpu fp32")
"""Speed-ups are over the first of these that was measured."""


def format_bench_table(results: Mapping[str, Any]) -> str:
    """Format the table for a terminal, with what was left out."""
    rows = [BENCH_HEADER, *make_table_rows(results)]
    lines = [*align_columns(rows, right=True)]
    baseline = find_baseline(results)
    lines += [f"speed-up: over {baseline} at the same batch and lanes"] if baseline else []
    lines += [f"left out {name}: {why}" for name, why in results["left_out"].items()]
    return "\n".join([str(results["version"]), *lines])


def format_bench_page(results: Mapping[str, Any]) -> str:
    """Format a page: what was measured, on which machine, and what was not."""
    hardware = results["hardware"]
    gpu = hardware["gpu"]["name"] if hardware["gpu"] else "no GPU"
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    settings = results["settings"]
    lines = [
        f"# {results['version']}: latency and throughput",
        "",
        f"{hardware['processor']}, {hardware['cores']} cores, {gpu}; {packages}; {results['when']}.",
        f"{settings['turns']} turns of {settings['turn_seconds']} s each, in turns with the others; "
        f"{settings['threads_per_cpu_lane']} threads a CPU lane; {settings['windows']}.",
        f"Speed-ups are over {find_baseline(results)} at the same batch and lanes.",
        "",
        f"    {' '.join(results['command'])}",
        "",
        "![throughput](benchmark.svg)",
        "",
        f"| {' | '.join(BENCH_HEADER)} |",
        f"|{'---|' * len(BENCH_HEADER)}",
        *(f"| {' | '.join(row)} |" for row in make_table_rows(results)),
        "",
        "Not measured:",
        *(f"- {text}" for text in results["not_measured"]),
        *(f"- {name}: {why}" for name, why in results["left_out"].items()),
    ]
    return "\n".join(lines) + "\n"


def find_baseline(results: Mapping[str, Any]) -> str | None:
    """Return the variant that speed-ups are over; None if no baseline was measured."""
    measured = {cell["variant"] for cell in results["results"]}
    return next((name for name in BASELINE_VARIANTS if name in measured), None)


def make_table_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of the table for each cell."""
    baseline = find_baseline(results)
    base = {
        (cell["batch"], cell["lanes"]): cell["windows_per_second"]
        for cell in results["results"]
        if cell["variant"] == baseline
    }
    return [_make_row(cell, base.get((cell["batch"], cell["lanes"]))) for cell in results["results"]]


def _make_row(cell: Mapping[str, Any], base: float | None) -> tuple[str, ...]:
    memory, busy = cell["gpu_memory_bytes"], cell["gpu_utilization_percent"]
    return (
        str(cell["batch"]),
        str(cell["lanes"]),
        cell["variant"],
        f"{cell['windows_per_second']:,.0f}",
        f"{cell['windows_per_second'] / base:.2f}" if base else "-",
        *(f"{cell['latency_ms'][name]:.3f}" for name in LATENCIES),
        "-" if memory is None else f"{memory / 2**20:,.0f}",
        "-" if busy is None else f"{busy:.0f}",
    )
