"""The whole daemon under the load of a fleet over WebSockets: losses, latencies, and the part that is busy first.

A `streamd serve` and the load replayer in several processes on the same machine, 20,000 servers at a cadence of 5
seconds first, then larger fleets until the 99th percentile from sample to forecast is over its limit. Windows are empty
at first: `min_context_rows` is 1, so every row is due at once; on the GPU a window costs the same with any number of
rows. An incomplete first row closes after a second (`row_grace_seconds`). The frames of the connections take turns:
when they were sent at the same moment, most of a row's latency was the work for the other frames. Latency is measured
from the moment at which a frame's last row was to be sent until its forecast is read. Busy shares are those of the
measured stretch only. Not measured: a network, TLS, single-sample frames (unless requested), a fleet over days, several
subscribers. With `--backend fake` lanes cost nothing (`instant_serve.py`): this measures the host, on any machine, and
not a GPU.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness import ROOT, ResultFile, Suite
from benchmarks.gpu.processes import CpuWatch, Daemon, copy_version, run_daemon
from benchmarks.harness import print_table
from streamd.repository.versions import EngineVersion

FULL = 0.9
"""A core or a lane that is busy for this share of its time is exhausted."""

CONNECTIONS = 8
ROWS_A_FRAME = 100
REPLAY_GRACE_SECONDS = 120.0


def run(suite: Suite) -> None:
    """Serve each version, with larger and larger fleets."""
    scratch = str(suite.arguments.scratch or tempfile.gettempdir())
    result = ResultFile(suite, "daemon", not_measured=__doc__, min_context_rows=1, state_under=scratch)
    for version in suite.versions:
        with suite.run_part(f"daemon {version.name}"), make_temporary_folder(suite) as folder:
            copy_version(suite, version, Path(folder) / "engines")
            rows: list[dict[str, Any]] = []
            for servers in (suite.arguments.servers, *suite.arguments.fleets):
                first = not rows
                seconds = suite.arguments.daemon_seconds if first else suite.arguments.growth_seconds
                with suite.run_part(f"daemon {version.name}: {servers} servers"):
                    rows.append(
                        {"engine": version.name, **measure_fleet(suite, version, Path(folder), servers, seconds)}
                    )
                    result.append("fleets", rows[-1])
                if not rows or rows[-1]["gave_out"]:
                    break
            _print(rows)


def make_temporary_folder(suite: Suite) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder for a daemon's state: under `--scratch`, so that the write-back of a slow disk can be avoided."""
    return tempfile.TemporaryDirectory(prefix="streamd-bench-", dir=suite.arguments.scratch)


def measure_fleet(suite: Suite, version: EngineVersion, folder: Path, servers: int, seconds: float) -> dict[str, Any]:
    """Measure one fleet on a new daemon."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        overrides = dict(each.split("=", 1) for each in suite.arguments.daemon_settings)
        settings = {
            "max_servers": servers,
            "min_context_rows": 1,
            "row_grace_seconds": 1.0,
            "lanes": suite.arguments.max_lanes,
        }
        settings |= {"backend": suite.arguments.backend, "log_level": "warning", **overrides}
        with run_daemon(Path(own), folder / "engines", version.name, **settings) as daemon:
            started = daemon.wait_ready()
            report, busy = replay_against(suite, daemon, Path(own), servers, seconds)
            after = daemon.get("/v1/status")[1]
    found = {
        "servers": servers,
        "rows_per_second_asked": round(servers / suite.arguments.cadence, 1),
        "backend": after["backend"],
        "precision": after["precision"],
        "seconds_to_ready": round(started, 2),
        "mean_batch": round(_count_windows(after) / max(sum(lane["batches"] for lane in after["lanes"]), 1), 1),
        "busy": busy,
        **summarize_report(report),
    }
    late = (found["p99_ms"] or 0.0) > suite.arguments.p99_limit_ms
    return {
        **found,
        "gave_out": _find_bottleneck(found, late=late) if late or found["lost"] else None,
        "replay": report,
    }


def replay_against(
    suite: Suite, daemon: Daemon, folder: Path, servers: int, seconds: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run the load test against the daemon; returns its report, and the busy shares of the measured stretch."""
    path, processes = folder / "replay.json", suite.arguments.replay_processes
    command = [sys.executable, str(ROOT / "scripts" / "replay.py"), "--url", daemon.url, "--synthetic", str(servers)]
    command += ["--context-rows", "1", "--rate", str(servers / suite.arguments.cadence), "--duration", str(seconds)]
    command += ["--connections", str(CONNECTIONS), "--processes", str(processes), "--form", "columns"]
    command += ["--encoding", "msgpack", "--samples-a-frame", str(ROWS_A_FRAME), "--dtype", "float16"]
    command += ["--quiet", "--json", str(path), *shlex.split(suite.arguments.replay_arguments)]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {**os.environ, "PYTHONPATH": search}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    watch = CpuWatch(daemon, process.pid)
    try:
        output, _ = process.communicate(timeout=seconds + REPLAY_GRACE_SECONDS)
    finally:
        watch.close()
        if process.poll() is None:
            process.terminate()
            process.wait()
    if not path.is_file():
        raise RuntimeError(f"the load test ended with {process.returncode}: {output.decode(errors='replace')[-800:]}")
    report: dict[str, Any] = json.loads(path.read_text())
    began, lasted = report["measured"]["began"], report["measured"]["seconds"]
    return report, watch.busy(began, began + lasted)


def summarize_report(report: dict[str, Any]) -> dict[str, Any]:
    """Summarize a report of the load test."""
    measured, latency = report["measured"], report["latency_ms"]["forecast"]
    lost = {name: count for name, count in report["faults"].items() if count}
    return {
        "rows_per_second": measured["rows_per_second"],
        "forecasts_per_second": measured["forecasts_per_second"],
        "expected": measured["expected"],
        "received": measured["received"],
        "superseded": measured["superseded"],
        "lagged": measured["lagged"],
        "lost": lost,
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "ack_p99_ms": report["latency_ms"]["ack"]["p99"],
    }


def _count_windows(status: dict[str, Any]) -> int:
    return sum(int(lane["windows"]) for lane in status["lanes"])


def _find_bottleneck(found: dict[str, Any], *, late: bool) -> str:
    """Name the parts that had no time left."""
    full = [name for name in ("daemon loop", "busiest client", "lanes") if found["busy"][name] >= FULL]
    parts = " and ".join(full) or "no part was exhausted"
    return f"{parts} ({'late' if late else 'lost rows'})"


def _print(rows: list[dict[str, Any]]) -> None:
    head = (
        "servers",
        "rows/s",
        "forecasts/s",
        "p50 ms",
        "p99 ms",
        "superseded",
        "lost",
        "batch",
        "loop",
        "client",
        "lanes",
    )
    cells = [
        (
            row["servers"],
            row["rows_per_second"],
            row["forecasts_per_second"],
            row["p50_ms"],
            row["p99_ms"],
            row["superseded"],
            row["lost"] or 0,
            row["mean_batch"],
            *(row["busy"][name] for name in ("daemon loop", "busiest client", "lanes")),
        )
        for row in rows
    ]
    if rows:
        print_table(f"{rows[0]['engine']} on {rows[0]['backend']}: whole daemon", head, cells)
        print(f"  exhausted first: {rows[-1]['gave_out'] or 'no part'}")
