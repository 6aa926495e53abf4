"""Runs `faults.py` in several clusters side by side on one large machine, and adds their results up.

    python -m benchmarks.cluster.many_faults --clusters 10 --result cluster_faults

Each cluster is one process in a network namespace of its own, so their networks do not meet; one keeps three to four
cores busy. Needs root, `unshare` and `ip`.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cluster.faults import describe_faults
from benchmarks.harness import ROOT, describe_machine, write_result

SAME = ("network", "nodes", "nats_servers", "shards", "servers", "rows_per_second")
"""What all clusters have in common."""

START_SECONDS = 2.0
"""Between the starts of two clusters, so that not all load their models at once."""


async def run_cluster(number: int, folder: Path, arguments: list[str]) -> dict[str, Any] | None:
    """Run the faults in one cluster; returns its result, `None` if it ended without one."""
    await asyncio.sleep(number * START_SECONDS)
    name = f"{folder.name}-{number}"
    inner = [sys.executable, "-m", "benchmarks.cluster.faults", "--seed", str(number + 1), "--result", name, *arguments]
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *inner]
    with (folder / f"{number}.txt").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=output, stderr=output)
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    written = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not written.exists():
        return None
    result: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    written.unlink()
    return result


def add_up(results: list[dict[str, Any]], clusters: int) -> dict[str, Any]:
    """Return one result of all clusters that came to an end."""
    checked, findings = Counter[str](), Counter[str]()
    for result in results:
        checked.update(result["checked"])
        findings.update(result["findings"])
    if len(results) < clusters:
        findings["no_result"] = clusters - len(results)
    return {
        "machine": describe_machine(),
        "load_average": os.getloadavg()[0],
        "clusters": clusters,
        **{key: results[0][key] for key in SAME if results},
        "faults": describe_faults([trial for result in results for trial in result["trials"]]),
        "acked_rows": sum(result["acked_rows"] for result in results),
        "subject_forecasts": sum(result["subject_forecasts"] for result in results),
        "checked": dict(sorted(checked.items())),
        "findings": dict(findings),
    }


async def run_all(clusters: int, folder: Path, arguments: list[str]) -> list[dict[str, Any]]:
    """Run all clusters; returns the results of those that came to an end."""
    runs = (run_cluster(number, folder, arguments) for number in range(clusters))
    return [result for result in await asyncio.gather(*runs) if result is not None]


def main() -> int:
    """Run, write the result, and return 0 if every promise held in every cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=2, help="[default: %(default)s]")
    parser.add_argument("--times", type=int, default=1, help="how often each cluster has each fault [default: 1]")
    parser.add_argument("--faults", help="names, separated by commas [default: all]")
    parser.add_argument("--result", help="name of the file in benchmarks/results [default: none is written]")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streamd-clusters-"))
    print(f"output of each cluster in {folder}", flush=True)
    arguments = ["--times", str(args.times), *(["--faults", args.faults] if args.faults else [])]
    result = add_up(asyncio.run(run_all(args.clusters, folder, arguments)), args.clusters)
    print(json.dumps(result, indent=1))
    if args.result:
        write_result(args.result, result)
    return 3 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
