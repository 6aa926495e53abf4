"""The forecasts a second of one node, of two and of four, with lanes that cost nothing, and the CPU time of each part.

    python -m benchmarks.cluster.throughput --nodes 1,2,4

Samples go into each node, of servers that the next one owns, so that all of them pass through the log to another node;
forecasts are read by name at the owner, or with `--read anywhere` by a glob at the node that took the samples, which
then follows all shards (`load.py`). Needs `nats-server` on the PATH, and for a fair ratio two cores for each node and
two for NATS: a node keeps one core busy.
Where there are fewer, the rate shows the machine; the CPU time for a forecast shows the nodes. With `--cores-a-node`
each node has so many cores of its own, from the first on, as hosts of that size would, and all else has the others.
`--bare` measures one daemon without a cluster beside them. Root is not needed with `--loopback`.

The servers of NATS write all forecasts to the disk under TMPDIR, three times into streams and three times into the logs
of their groups: 4 GB a second at 35,000. A disk that cannot take that is what is measured.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from benchmarks.cluster.site import Site, stop_by_signal
from benchmarks.harness import ROOT, describe_machine, print_table, write_result

SHARDS = 32
FRAME_ROWS = 500
SETTINGS = {
    "MIN_CONTEXT_ROWS": "2",
    "ROW_GRACE_SECONDS": "30",
    "SCORED_SERVERS": "0",
    "LOG_LEVEL": "warning",
    "REBALANCE_DELAY_SECONDS": "2",
    "FORECAST_SUBJECTS": "false",
}


class CpuMeter:
    """The CPU seconds of the nodes and of NATS."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def read(self) -> tuple[float, float]:
        """Return the seconds so far of all nodes, and of all servers of NATS."""
        nodes = sum(node.program.read_cpu_seconds() for node in self._site.nodes)
        return nodes, sum(each.read_cpu_seconds() for each in self._site.nats.programs.values() if each.pid)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a measurement."""

    servers: int
    warm_seconds: float
    seconds: float
    nats: int
    reads_anywhere: bool
    on_loopback: bool
    cores_a_node: int
    """0: all share the machine."""


async def run_loads(site: Site, plan: Plan) -> list[dict[str, Any]]:
    """Run a load for each node's servers; returns their results."""
    processes = []
    for place, owner in enumerate(site.nodes):
        taker = site.nodes[place - 1]
        reader = taker if plan.reads_anywhere else owner
        shards = site.leases.list_shards(owner.name) or range(site.shards)
        command = [sys.executable, "-m", "benchmarks.cluster.load", taker.url, reader.url, f"n{place}"]
        command += [str(plan.servers // len(site.nodes)), str(FRAME_ROWS), str(plan.warm_seconds), str(plan.seconds)]
        command += [str(site.shards), ",".join(map(str, shards)), "glob" if plan.reads_anywhere else "names"]
        processes.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE))
    try:
        outputs = await asyncio.gather(*(process.communicate() for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
    return [json.loads(output) for output, _ in outputs]


async def measure(count: int, plan: Plan) -> dict[str, Any]:
    """Measure so many nodes; without any, one daemon that is no node."""
    with tempfile.TemporaryDirectory(prefix="streamd-throughput-") as folder:
        settings = {**SETTINGS, "MAX_SERVERS": str(plan.servers + 1_000)}
        if count == 0:
            settings["NATS"] = ""
        site = Site(
            Path(folder),
            nodes=max(count, 1),
            nats=plan.nats,
            shards=SHARDS,
            settings=settings,
            module="benchmarks.cluster.free_lanes",
            on_loopback=plan.on_loopback,
        )
        for place, node in enumerate(site.nodes):
            node.program.cores = range(place * plan.cores_a_node, (place + 1) * plan.cores_a_node)
        try:
            if count:
                await site.start_nats()
                await site.start_nodes()
            else:
                await site.nodes[0].start_and_wait()
            meter = CpuMeter(site)
            loads = asyncio.create_task(run_loads(site, plan))
            await asyncio.sleep(plan.warm_seconds)
            before, began = meter.read(), time.monotonic()
            await asyncio.sleep(plan.seconds)
            after, took = meter.read(), time.monotonic() - began
            results = await loads
        finally:
            await site.close()
    rate = sum(each["forecasts_per_second"] for each in results)
    node_seconds, nats_seconds = (late - early for late, early in zip(after, before, strict=True))
    return {
        "nodes": count,
        "forecasts_per_second": round(rate),
        "node_us": round(node_seconds / (rate * took) * 1e6, 1) if rate else None,
        "nats_us": round(nats_seconds / (rate * took) * 1e6, 1) if rate else None,
        "client_us": round(sum(each["cpu_seconds"] for each in results) / (rate * plan.seconds) * 1e6, 1)
        if rate
        else None,
        "busy_cores_of_nodes": round(node_seconds / took, 2),
        "busy_cores_of_nats": round(nats_seconds / took, 2),
        "p50_ms": round(max(each["p50_ms"] for each in results)),
        "p99_ms": round(max(each["p99_ms"] for each in results)),
        "refused_frames": sum(each["refused"] for each in results),
    }


def main() -> int:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1,2,4", help="numbers of nodes [default: %(default)s]")
    parser.add_argument("--servers", type=int, default=20_000)
    parser.add_argument("--nats", type=int, default=3, help="servers of NATS [default: %(default)s]")
    parser.add_argument("--warm-seconds", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--read", choices=("owner", "anywhere"), default="owner", help="[default: %(default)s]")
    parser.add_argument("--bare", action="store_true", help="also one daemon without a cluster")
    parser.add_argument(
        "--cores-a-node", type=int, default=0, metavar="N", help="cores of each node's own [default: all]"
    )
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--result", help="name of the file in benchmarks/results [default: none is written]")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    plan = Plan(
        servers=args.servers,
        warm_seconds=args.warm_seconds,
        seconds=args.seconds,
        nats=args.nats,
        reads_anywhere=args.read == "anywhere",
        on_loopback=args.loopback,
        cores_a_node=args.cores_a_node,
    )
    counts = [*([0] if args.bare else []), *map(int, args.nodes.split(","))]
    if args.cores_a_node:
        others = os.sched_getaffinity(0) - set(range(max(1, *counts) * args.cores_a_node))
        if not others:
            parser.error(f"--cores-a-node: {max(counts)} nodes have all cores, expected some for NATS and the clients")
        os.sched_setaffinity(0, others)  # the servers of NATS and the clients inherit it
    cells = []
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        for count in counts:
            cells.append(asyncio.run(stop_by_signal(measure(count, plan))))
            print(json.dumps(cells[-1]), flush=True)
    one = next((cell["forecasts_per_second"] for cell in cells if cell["nodes"] == 1), None)
    for cell in cells:
        rate = cell["forecasts_per_second"]
        cell["ratio_to_n_times_one"] = round(rate / (cell["nodes"] * one), 2) if one and cell["nodes"] else None
    if cells:
        print_table("Throughput", list(cells[0]), [list(cell.values()) for cell in cells])
    result = {
        "machine": describe_machine(),
        "load_average": os.getloadavg()[0],
        "servers": args.servers,
        "read": args.read,
        "cores_a_node": args.cores_a_node or None,
        "runs": cells,
    }
    if args.result:
        write_result(args.result, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
