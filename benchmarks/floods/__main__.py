"""Measures the daemon under each flood, one at a time: `python -m benchmarks.floods --seconds 10 --out FILE`.

Goals: `/healthz` answers a new connection within 100 ms, and no turn of the daemon's loop takes 100 ms of CPU time. On
a machine with few cores, the times of `/healthz` include what attackers and probe take; the turns do not.

Not measured: a network, TLS, floods that are combined (`benchmarks.overload --attacks` has those).
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.floods.attacks import FLOODS, flooding
from benchmarks.harness import DaemonProcess, describe_machine, find_free_port, print_table, start_process, wait_ready
from benchmarks.overload.probe import probing

HEALTH_GOAL_MS = TURN_GOAL_MS = 100.0
MISSED = 3
"""The exit status if a goal is missed."""

WARM_UP_SECONDS = 1.0
SAMPLES_A_BODY = 5_000


def main() -> int:
    """Measure, print and write the figures; returns 0 if the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood [default: %(default)s]")
    parser.add_argument("--servers", type=int, default=20_000, help="that the daemon knows [default: %(default)s]")
    parser.add_argument("--only", action="append", metavar="TEXT", help="floods whose name has this text; repeatable")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    args = parser.parse_args()
    names = [name for name in FLOODS if not args.only or any(text in name for text in args.only)]
    rows = asyncio.run(measure(names, args.seconds, args.servers))
    print_rows(rows)
    if args.out:
        result = {"machine": describe_machine(), "command": " ".join(sys.argv[1:]), "floods": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="ascii")
    is_met = all(row["healthz_max_ms"] <= HEALTH_GOAL_MS and row["turn_max_cpu_ms"] <= TURN_GOAL_MS for row in rows)
    return 0 if is_met else MISSED


async def measure(names: Sequence[str], seconds: float, servers: int) -> list[dict[str, Any]]:
    """Return the figures of each flood, each at a daemon of its own, and of a daemon without one."""
    return [await measure_flood(name, seconds, servers) for name in ("", *names)]


async def measure_flood(name: str, seconds: float, servers: int) -> dict[str, Any]:
    """Return the figures of one flood; of a daemon without one if the name is empty."""
    with tempfile.TemporaryDirectory(prefix="streamd-floods-") as folder:
        log = Path(folder) / "turns.jsonl"
        async with _running_daemon(log, Path(folder) / "state", servers) as daemon:
            await _prefill(daemon, servers)
            before = daemon.read_memory_bytes()["anonymous"]
            with flooding(daemon.port, name) if name else nullcontext():
                await asyncio.sleep(WARM_UP_SECONDS)  # until the attackers run
                began, cpu = time.monotonic(), daemon.read_cpu_seconds()
                with probing(daemon.port, on_new_connections=True) as health:
                    await asyncio.sleep(seconds)
                cores = (daemon.read_cpu_seconds() - cpu) / (time.monotonic() - began)
                memory = daemon.read_memory_bytes()["anonymous"]
            turns = [each for each in map(json.loads, log.read_text().splitlines()) if each["at"] >= began]
    row = {
        "flood": name or "none",
        "connections": FLOODS[name][1] if name else 0,
        "healthz_p99_ms": round(1e3 * health.percentile(0.99), 1),
        "healthz_max_ms": round(1e3 * health.percentile(1.0), 1),
        "healthz_errors": health.errors,
        "turn_max_cpu_ms": round(1e3 * max(each["cpu"] for each in turns), 1),
        "turn_max_wall_ms": round(1e3 * max(each["wall"] for each in turns), 1),
        "daemon_cores": round(cores, 2),
        "grown_mib": round((memory - before) / 2**20),
    }
    print(json.dumps(row), flush=True)
    return row


@asynccontextmanager
async def _running_daemon(log: Path, state: Path, servers: int) -> AsyncIterator[DaemonProcess]:
    port = find_free_port()
    environ = {**os.environ, "STREAMD_MAX_SERVERS": str(2 * servers + 10_000)}
    command = [sys.executable, "-m", "benchmarks.floods.daemon", str(log), "serve", "--config", "config.toml"]
    command += ["--port", str(port), "--state-dir", str(state), "--log-level", "warning"]
    process = start_process(command, environ)
    try:
        yield DaemonProcess(process, port)
    finally:
        process.terminate()
        process.wait(60)


async def _prefill(daemon: DaemonProcess, servers: int) -> None:
    """Wait until the daemon is ready, and send it one sample of each server."""
    async with aiohttp.ClientSession() as session:
        await wait_ready(daemon, session)
        at = int(time.time()) // 60 * 60
        for first in range(0, servers, SAMPLES_A_BODY):
            numbers = range(first, min(first + SAMPLES_A_BODY, servers))
            samples = [
                {"server": f"server-{number:06d}", "time": at, "values": {"cpu_user": 1.0}} for number in numbers
            ]
            async with session.post(f"{daemon.url}/v1/samples", json={"samples": samples}) as answer:
                if (await answer.json())["accepted"] != len(samples):
                    raise RuntimeError(f"samples were not accepted: {await answer.text()}")


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures as a table."""
    head = [key.replace("_", " ") for key in rows[0]]
    print_table(f"Floods, {os.cpu_count()} cores", head, [list(map(str, row.values())) for row in rows])


if __name__ == "__main__":
    sys.exit(main())
