"""Makes each fault of a cluster again and again under load, and checks what a cluster promises.

    python -m benchmarks.cluster.faults --times 10

Three servers of NATS and four nodes, each in a network namespace of its own. The model repeats its window, so each
forecast is compared with the rows that were sent. Counted after each fault: acknowledged rows that a window lacks;
forecasts that are wrong, or come again with other numbers (over readers at each node, and `forecast.>` in NATS);
the seconds from the death of a node to the first forecast of a later row, for each of its shards; the longest pause of
any shard. Needs root for namespaces; `--loopback` runs without, and stops a node in place of cutting it off.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import structlog

from benchmarks.chaos.history import ServerHistory
from benchmarks.chaos.journal import Journal, end_run
from benchmarks.chaos.model import CONTRACT, MISSING, NEED, write_versions
from benchmarks.chaos.orders import LaneOrders, write_orders
from benchmarks.chaos.run import STEPS_BEFORE_NOW
from benchmarks.cluster.readers import ForecastLedger, NodeReader, SubjectReader
from benchmarks.cluster.senders import RoamingLink, RowSender
from benchmarks.cluster.site import Site, running_site, stop_by_signal
from benchmarks.cluster.trials import FAULTS, TrialNotes
from benchmarks.harness import describe_machine

NODES, NATS, SHARDS = 4, 3, 16
SERVERS, SENDERS = 192, 8
PAUSE_SECONDS = 1.0
CALM_SECONDS = 3.0
COMPLETE_SECONDS = 30.0
CHECKS_AT_ONCE = 8
DEFECTS = ("Traceback", '"handler_failed"', '"connection_failed"', '"level": "critical"')

SETTINGS = {
    "MAX_SERVERS": "1024",
    "MIN_CONTEXT_ROWS": str(NEED),
    "LATE_TOLERANCE_STEPS": "8",
    "ROW_GRACE_SECONDS": "1.0",
    "WARMUP_SECONDS": "0.05",
    "DRAIN_SECONDS": "20.0",
    "SCORED_SERVERS": "8",
    "REBALANCE_DELAY_SECONDS": "5.0",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "info",
}


class FaultRun:
    """A cluster under load, and the faults that are made to it."""

    def __init__(self, folder: Path, journal: Journal, *, seed: int, on_loopback: bool) -> None:
        write_orders(folder / "orders.json", LaneOrders())
        settings = {**SETTINGS, "ENGINES": str(write_versions(folder / "engines"))}
        self.journal = journal
        self.random = Random(seed)
        self.results: list[dict[str, Any]] = []
        self.site = Site(
            folder,
            nodes=NODES,
            nats=NATS,
            shards=SHARDS,
            settings=settings,
            module="benchmarks.chaos.child",
            environ={"CHAOS_ORDERS": str(folder / "orders.json")},
            on_loopback=on_loopback,
        )
        self.histories = {number: ServerHistory(f"web-{number:04d}.rack{number % 7}") for number in range(SERVERS)}
        self.ledger = ForecastLedger({each.name: each for each in self.histories.values()}, SHARDS, journal)
        urls = [node.url for node in self.site.nodes]
        first_step = int(time.time()) // CONTRACT.step_seconds - STEPS_BEFORE_NOW
        self.senders = [
            RowSender(
                RoamingLink([*urls[place % NODES :], *urls[: place % NODES]], is_socket=place % 2 == 0),
                {number: each for number, each in self.histories.items() if number % SENDERS == place},
                first_step=first_step,
                journal=journal,
                random=Random(f"{seed} {place}"),
            )
            for place in range(SENDERS)
        ]
        self.readers = [
            NodeReader(node.name, [*urls[place:], *urls[:place]], self.ledger, journal)
            for place, node in enumerate(self.site.nodes)
        ]
        self.subjects = SubjectReader(self.ledger)

    async def run(self, faults: Sequence[str], times: int) -> None:
        """Make each of these faults so many times; what was found is in the journal and in `results`."""
        async with running_site(self.site):
            await self.site.log.subscribe("forecast.>", self.subjects.take)
            readers = [asyncio.create_task(reader.run()) for reader in self.readers]
            senders = [asyncio.create_task(sender.run(PAUSE_SECONDS)) for sender in self.senders]
            try:
                await asyncio.sleep(NEED * PAUSE_SECONDS + CALM_SECONDS)
                for number in range(times):
                    for name in faults:
                        await self._try(name, number)
                for sender in self.senders:
                    sender.is_stopping = True
                await asyncio.gather(*senders)
                await self._check_complete()
                await self._check_windows()
            finally:
                for task in [*readers, *senders]:
                    task.cancel()
                await asyncio.gather(*readers, *senders, return_exceptions=True)
                for sender in self.senders:
                    await sender.close()
        self._read_logs()

    async def _try(self, name: str, number: int) -> None:
        if (reason := FAULTS[name].needs(self)) is not None:
            self.journal.write("skipped", fault=name, reason=reason)
            return
        acked, findings = self._count_acked(), sum(self.journal.findings.values())
        notes = TrialNotes()
        self.journal.write("fault", fault=name, number=number)
        try:
            await FAULTS[name].apply(self, notes)
            self.journal.write("undone", **notes.values)
            whole = await self.site.wait_owned()
            self.journal.write("balanced", seconds=whole)
            await asyncio.sleep(CALM_SECONDS)
        except (TimeoutError, RuntimeError) as error:
            self.journal.report("not_whole_again", f"{name}: {error}")
            whole = -1.0
        self.ledger.finish_trial()
        await self._check_windows()
        self.journal.write("windows_checked")
        result = {
            "fault": name,
            "taken_over_seconds": sorted(round(each, 2) for each in self.ledger.taken_over.values()),
            "longest_pause_seconds": round(max(self.ledger.pauses.values(), default=0.0), 2),
            "balanced_after_seconds": round(whole, 2),
            "acked_rows": self._count_acked() - acked,
            "findings": sum(self.journal.findings.values()) - findings,
            **notes.values,
        }
        self.results.append(result)
        self.journal.write("tried", **result)
        print(json.dumps(result), flush=True)

    def _count_acked(self) -> int:
        return sum(sender.acked_rows for sender in self.senders)

    # ------------------------------------------------------------ checks
    async def _check_windows(self) -> None:
        """Compare the window of each server, read at any node, with what was acknowledged."""
        limit = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def check(history: ServerHistory) -> None:
            async with limit:
                await self._check_window(history)

        await asyncio.gather(*map(check, self.histories.values()))

    async def _check_window(self, history: ServerHistory) -> None:
        for _ in range(20):
            closed, begin = history.closed_step, time.monotonic()
            node = self.random.choice(self.site.nodes)
            status, answer = await node.read(f"/v1/servers?server={history.name}")
            end = time.monotonic()
            has_rows = status == 200 and answer["origin"] is not None
            newest = round(answer["origin"] / CONTRACT.step_seconds) - 1 if has_rows else -1
            if has_rows and newest >= closed:
                break
            await asyncio.sleep(0.2)  # the owner reads the log a moment after the agent got its ack
        else:
            self.journal.report("lost_rows", f"{history.name}: {status} {newest}, expected {closed} or later")
            return
        rows = [[MISSING if cell is None else cell for cell in row] for row in answer["values"]]
        # The owner may apply what was acknowledged a moment later, so a cell may be as it was two seconds before.
        for wrong in history.find_wrong_cells(newest, rows, begin - 2.0, end):
            self.journal.report("lost_rows", wrong)
        self.journal.count("windows_checked")

    async def _check_complete(self) -> None:
        """Check that each reader has the newest forecast of each server."""
        missing: Mapping[str, list[str]] = {}
        deadline = time.monotonic() + COMPLETE_SECONDS
        while time.monotonic() < deadline:
            missing = {
                reader.name: [
                    each.name for each in self.histories.values() if reader.newest.get(each.name, -1) < each.closed_step
                ]
                for reader in self.readers
            }
            if not any(missing.values()):
                break
            await asyncio.sleep(0.2)
        for name, servers in missing.items():
            if servers:
                self.journal.report("missing_forecast", f"{name}: {len(servers)} servers: {servers[:8]}")
        self.journal.count("readers_complete", len(self.readers))

    def _read_logs(self) -> None:
        for node in self.site.nodes:
            for line in node.program.log.read_text(encoding="utf-8", errors="replace").splitlines():
                if any(defect in line for defect in DEFECTS):
                    self.journal.report("defect", f"{node.name}: {line[:2_000]}")


def describe_faults(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by fault how often it was made, how long takeovers and pauses took, and what was found."""
    faults = {}
    for name in FAULTS:
        own = [result for result in trials if result["fault"] == name]
        if own:
            takeovers = [seconds for result in own for seconds in result["taken_over_seconds"]]
            faults[name] = {
                "times": len(own),
                "takeover": _describe(takeovers),
                "longest_pause": _describe([result["longest_pause_seconds"] for result in own]),
                "acked_rows": sum(result["acked_rows"] for result in own),
                "findings": sum(result["findings"] for result in own),
            }
    return faults


def summarize(run: FaultRun) -> dict[str, Any]:
    """Return the result of a run."""
    return {
        "machine": describe_machine(),
        "network": run.site.network.description,
        "nodes": NODES,
        "nats_servers": NATS,
        "shards": SHARDS,
        "servers": SERVERS,
        "rows_per_second": round(SERVERS / PAUSE_SECONDS),
        "faults": describe_faults(run.results),
        "acked_rows": sum(sender.acked_rows for sender in run.senders),
        "subject_forecasts": run.subjects.messages,
        "checked": dict(sorted(run.journal.checked.items())),
        "findings": dict(run.journal.findings),
        "trials": run.results,
    }


def _describe(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"count": len(seconds), "median": round(statistics.median(seconds), 2), "worst": max(seconds)}


def main() -> int:
    """Run, write the result, and return 0 if every promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1, help="how often each fault is made [default: %(default)s]")
    parser.add_argument("--faults", default=",".join(FAULTS), help="names, separated by commas [default: all]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--result", help="name of the file in benchmarks/results [default: none is written]")
    args = parser.parse_args()
    faults = args.faults.split(",")
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"--faults: {', '.join(sorted(unknown))}: expected some of {', '.join(FAULTS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = Path(tempfile.mkdtemp(prefix="streamd-cluster-"))
    print(f"logs in {folder}", flush=True)
    with (folder / "faults.jsonl").open("w", encoding="ascii") as file:
        journal = Journal(file)
        run = FaultRun(folder, journal, seed=args.seed, on_loopback=args.loopback)
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(stop_by_signal(run.run(faults, args.times)))
    result = summarize(run)
    return end_run(journal, result, args.result)


if __name__ == "__main__":
    sys.exit(main())
