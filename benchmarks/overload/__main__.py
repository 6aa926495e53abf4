"""Measures the daemon at 0.9 and at 3 times its capacity: `python -m benchmarks.overload --seconds 300 --out FILE`.

The capacity is measured first, by a closed loop that keeps all lanes busy. Then a fleet reports once an interval, all
its servers together, as agents do at the end of a step; three times the capacity is a fleet that is so much larger.
With `--spread` its servers report evenly over the interval, which makes ages at 0.9 of the capacity much smaller than
at the end of a burst. Goals: at three times the capacity the goodput is at least 0.9 of the capacity, the 99th
percentile of the age of delivered forecasts at most twice that at 0.9, and `/healthz` answers within 100 ms. The client
shares the cores with the daemon, which counts against the daemon; `--attack-cores` gives the attackers others.

Not measured: a network, TLS, other protocols.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.chaos.tokens import ChaosTokens
from benchmarks.harness import DaemonProcess, describe_machine, print_table, running_daemon
from benchmarks.overload.attacks import attacking
from benchmarks.overload.fleet import Fleet
from benchmarks.overload.probe import probing

CLOSED_SERVERS = 512
MIN_CONTEXT_ROWS = 6
LOADS = (0.9, 3.0)
GOODPUT_GOAL, AGE_GOAL, HEALTH_GOAL_SECONDS = 0.9, 2.0, 0.1
MISSED = 3
"""The exit status if a goal is missed."""


@dataclass(frozen=True, kw_only=True)
class OverloadPlan:
    """The size of the measurement."""

    seconds: float
    usual_seconds: float
    """Of the load below the capacity."""
    interval_seconds: float
    capacity_seconds: float
    is_spread: bool
    has_attacks: bool
    has_tokens: bool
    attack_cores: tuple[int, ...] = ()
    capacity: float | None = None
    """Forecasts a second, if it is not to be measured."""


def main() -> int:
    """Measure, print and write the figures; returns 0 if the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load [default: %(default)s]")
    parser.add_argument("--usual-seconds", type=float, help="of the load below the capacity [default: as --seconds]")
    parser.add_argument("--capacity-seconds", type=float, default=10.0, help="[default: %(default)s]")
    parser.add_argument("--capacity", type=float, help="forecasts a second [default: measured]")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between rows [default: %(default)s]")
    parser.add_argument("--spread", action="store_true", help="servers report evenly over the interval")
    parser.add_argument("--attacks", action="store_true", help="measure the largest load under all attacks too")
    parser.add_argument("--attack-cores", type=int, nargs="+", default=[], help="numbers of the attackers' cores")
    parser.add_argument("--tokens", choices=("without", "with", "both"), default="without")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": describe_machine(), "command": " ".join(sys.argv[1:]), "runs": []}
    for has_tokens in {"without": (False,), "with": (True,), "both": (False, True)}[args.tokens]:
        plan = OverloadPlan(
            seconds=args.seconds,
            usual_seconds=args.usual_seconds or args.seconds,
            interval_seconds=args.interval,
            capacity_seconds=args.capacity_seconds,
            is_spread=args.spread,
            has_attacks=args.attacks,
            attack_cores=tuple(args.attack_cores),
            has_tokens=has_tokens,
            capacity=args.capacity,
        )
        run = asyncio.run(measure(plan))
        print_run(run)
        result["runs"].append(run)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="ascii")
    return 0 if all(run["goals"] and all(run["goals"].values()) for run in result["runs"]) else MISSED


async def measure(plan: OverloadPlan) -> dict[str, Any]:
    """Measure the capacity and each load on one daemon."""
    with tempfile.TemporaryDirectory(prefix="streamd-overload-") as folder:
        tokens = ChaosTokens(Path(folder) / "tokens.json", are_used=plan.has_tokens)
        settings: dict[str, object] = {"max_servers": 60_000, "min_context_rows": MIN_CONTEXT_ROWS}
        if plan.has_tokens:
            settings["tokens_file"] = tokens.path
        headers = tokens.make_headers("load")
        async with running_daemon(**settings) as daemon, aiohttp.ClientSession(headers=headers) as session:
            return await _measure_loads(plan, daemon, session, headers)


async def _measure_loads(
    plan: OverloadPlan, daemon: DaemonProcess, session: aiohttp.ClientSession, headers: Mapping[str, str]
) -> dict[str, Any]:
    fleet = Fleet(session, daemon.url, 60_000)
    await fleet.prefill(0, CLOSED_SERVERS)
    capacity = plan.capacity or await fleet.run_closed(CLOSED_SERVERS, plan.capacity_seconds)
    print(f"capacity {capacity:,.0f} forecasts a second", flush=True)
    prefilled, loads = CLOSED_SERVERS, []
    for load, is_attacked in [*((load, False) for load in LOADS), *([(LOADS[-1], True)] if plan.has_attacks else [])]:
        servers = max(round(load * capacity * plan.interval_seconds), 1)
        await fleet.prefill(prefilled, servers)
        prefilled = max(prefilled, servers)
        await _wait_idle(daemon, session)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        seconds = plan.seconds if load > 1 else plan.usual_seconds
        found = await _measure_load(plan, seconds, daemon, fleet, servers, head if is_attacked else None)
        loads.append({"load": load, "attacked": is_attacked, "seconds": seconds, "servers": servers, **found})
        print(f"  load {load:g}{' under attack' if is_attacked else ''}: {json.dumps(loads[-1])}", flush=True)
    return {
        "tokens": plan.has_tokens,
        "spread": plan.is_spread,
        "capacity": round(capacity, 1),
        "loads": loads,
        "goals": judge_loads(capacity, loads),
    }


async def _measure_load(
    plan: OverloadPlan, seconds: float, daemon: DaemonProcess, fleet: Fleet, servers: int, attack_head: str | None
) -> dict[str, Any]:
    fleet.answers.clear()
    fleet.unsent = 0
    cpu, client = daemon.read_cpu_seconds(), time.process_time()
    with ExitStack() as stack:
        health = stack.enter_context(probing(daemon.port))
        if attack_head is not None:
            stack.enter_context(attacking(daemon.port, attack_head, plan.attack_cores))
        log = await fleet.run_open(servers, seconds, plan.interval_seconds, is_spread=plan.is_spread)
    return {
        "goodput": round(log.delivered / (0.9 * seconds), 1),
        "age_p50_seconds": round(log.percentile(0.5), 3),
        "age_p99_seconds": round(log.percentile(0.99), 3),
        "healthz_p99_ms": round(1e3 * health.percentile(0.99), 1),
        "healthz_max_ms": round(1e3 * health.percentile(1.0), 1),
        "healthz_errors": health.errors,
        "answers": dict(fleet.answers),
        "unsent_rows": fleet.unsent,
        "daemon_cores": round((daemon.read_cpu_seconds() - cpu) / seconds, 2),
        "client_cores": round((time.process_time() - client) / seconds, 2),
        "daemon_memory_mib": round(daemon.read_memory_bytes()["anonymous"] / 2**20),
    }


async def _wait_idle(daemon: DaemonProcess, session: aiohttp.ClientSession) -> None:
    while (status := await daemon.fetch_status(session))["due"] or status["in_flight"]:
        await asyncio.sleep(0.1)


def judge_loads(capacity: float, loads: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return whether each goal is reached, by its name."""
    usual, *beyond = loads
    goals = {}
    for each in beyond:
        name = "under attack: " if each["attacked"] else ""
        goals[f"{name}goodput"] = each["goodput"] >= GOODPUT_GOAL * capacity
        goals[f"{name}age"] = each["age_p99_seconds"] <= AGE_GOAL * usual["age_p99_seconds"]
        goals[f"{name}healthz"] = each["healthz_max_ms"] <= 1e3 * HEALTH_GOAL_SECONDS and not each["healthz_errors"]
    return goals


def print_run(run: Mapping[str, Any]) -> None:
    """Print the loads of one run and its goals."""
    rows = [
        (
            f"{each['load']:g}{' attacked' if each['attacked'] else ''}",
            f"{each['servers']:,}",
            f"{each['goodput']:,.0f}",
            f"{each['goodput'] / run['capacity']:.2f}",
            f"{each['age_p50_seconds']:.2f}",
            f"{each['age_p99_seconds']:.2f}",
            f"{each['healthz_p99_ms']:.0f}",
            f"{each['healthz_max_ms']:.0f}",
            f"{each['daemon_cores']:.1f}",
            f"{each['client_cores']:.1f}",
        )
        for each in run["loads"]
    ]
    head = ("load", "servers", "goodput", "of capacity", "age p50 s", "p99 s", "healthz p99 ms", "max ms")
    title = (
        f"Capacity {run['capacity']:,.0f}/s, {'with' if run['tokens'] else 'without'} tokens, {os.cpu_count()} cores"
    )
    print_table(title, (*head, "daemon cores", "client cores"), rows)
    print("  " + ", ".join(f"{name}: {'reached' if is_met else 'MISSED'}" for name, is_met in run["goals"].items()))


if __name__ == "__main__":
    sys.exit(main())
