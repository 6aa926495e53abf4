"""Kills each process of a daemon of several processes again and again, under load, and checks what was promised.

    python -m benchmarks.workers_kill --kills 20

The load is that of the chaos suite (bodies and frames of columns and of samples, in JSON and MessagePack, readers in
single frames, batch frames and events), and of frames of one sample, of points of another agent, and of readers that
resume with `Last-Event-ID`. The lanes of the engine process repeat their windows, so that each forecast is compared
with what was sent. After each kill: the others acknowledge rows meanwhile, a successor starts, no acknowledged row and
no delivered forecast is lost or wrong; at the end each reader has the newest forecast of each server, and none twice.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmarks.chaos.journal import Journal, end_run
from benchmarks.chaos.links import JSON, MSGPACK, SampleLink
from benchmarks.chaos.model import CONTRACT
from benchmarks.chaos.parts import PART_FAULTS
from benchmarks.chaos.run import STEPS_BEFORE_NOW, ChaosPlan, ChaosRun
from benchmarks.chaos.sender import ChaosSender
from benchmarks.harness import describe_machine
from streamd.runtime.workers.ownership import find_owning_worker

WORKERS = 2
SERVERS = 16
POINT_PAUSE_SECONDS = 0.05
POINT_ANSWER_SECONDS = 15.0
RECONNECT_SECONDS = 0.05


class ResumingReader:
    """A reader of events that resumes after the last one that it got, whichever worker it meets."""

    def __init__(self, run: ChaosRun) -> None:
        self._run = run
        self._last_id = ""
        self._newest: dict[str, int] = {}

    async def read(self) -> None:
        """Read until cancelled, and check that no server's forecast comes twice or out of order."""
        async with aiohttp.ClientSession(headers=self._run.tokens.make_headers("everything")) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self._read_connection(session)
                self._run.journal.count("resuming_reader_connected")
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_connection(self, session: aiohttp.ClientSession) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        url = f"{self._run.process.url}/v1/forecasts/stream"
        async with session.get(url, params={"servers": "*"}, headers=headers) as response:
            if response.status != 200:
                return
            identifier, kind = "", ""
            while line := (await response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "id":
                    identifier = value
                elif name == "event":
                    kind = value
                elif name == "data" and kind == "forecast":
                    self._check(json.loads(value))
                    self._last_id = identifier

    def _check(self, message: dict[str, Any]) -> None:
        server, step = message["server"], round(message["origin"] / CONTRACT.step_seconds) - 1
        before = self._newest.get(server, -1)
        if step <= before:
            self._run.journal.report("doubled_when_resumed", f"{server} {step} after {before}")
        self._newest[server] = max(step, before)
        self._run.journal.count("resumed_forecasts_checked")

    def check_complete(self) -> None:
        """Report the servers whose newest forecast was not read."""
        for history in self._run.histories.values():
            if self._newest.get(history.name, -1) < history.closed_step:
                self._run.journal.report("missing_when_resumed", f"{history.name}: {self._newest.get(history.name)}")


async def send_points(run: ChaosRun) -> None:
    """Send points of another agent until cancelled, and count the answers: they go through a worker to the engine."""
    async with aiohttp.ClientSession(headers=run.tokens.make_headers("sender")) as session:
        while True:
            lines = "\n".join(f"cpu,host=web-{number:03d} usage_idle=5" for number in range(900, 910))
            timeout = aiohttp.ClientTimeout(total=POINT_ANSWER_SECONDS)
            try:
                async with session.post(f"{run.process.url}/api/v2/write", data=lines, timeout=timeout) as response:
                    run.journal.count(f"points_answered {response.status}")
                    if response.status not in (204, 503):
                        run.journal.report("wrong_answer", f"{response.status} to points: {await response.text()}")
            except TimeoutError:
                run.journal.report("no_answer", f"points got no answer in {POINT_ANSWER_SECONDS:g} s")
            except (aiohttp.ClientError, OSError):
                run.journal.count("points_lost")
            await asyncio.sleep(POINT_PAUSE_SECONDS)


class KillRun:
    """One run in a folder: `kills` of each process, one after the other."""

    def __init__(self, folder: Path, kills: int, journal: Journal, seed: int = 1) -> None:
        faults = tuple(PART_FAULTS) * kills
        plan = ChaosPlan(
            seed=seed,
            faults=faults,
            servers=SERVERS,
            gap_seconds=0.2,
            fault_seconds=(0.1, 0.1),
            send_pause_seconds=0.3,
        )
        self.chaos = ChaosRun(folder, plan, journal)
        self.chaos.process.settings["WORKERS"] = str(WORKERS)
        self._add_single_senders(seed)
        self._reader = ResumingReader(self.chaos)

    def _add_single_senders(self, seed: int) -> None:
        """Let the first sender of each worker send a frame for each sample, of servers that this worker owns.

        A sender repeats what was refused, so that one with servers of a killed worker waits for it.
        """
        chaos = self.chaos
        first_step = int(time.time()) // CONTRACT.step_seconds - STEPS_BEFORE_NOW
        for place, content_type in ((0, JSON), (1, MSGPACK)):
            link = SampleLink(
                chaos.process.url,
                chaos.tokens.make_headers("sender"),
                is_socket=True,
                content_type=content_type,
                one_by_one=True,
            )
            servers = {
                number: each
                for number, each in chaos.histories.items()
                if number % chaos.plan.senders < WORKERS and find_owning_worker(each.name, WORKERS) == place
            }
            chaos.senders[place] = ChaosSender(
                link,
                chaos.process.port,
                servers,
                first_step=first_step,
                journal=chaos.journal,
                random=Random(f"{seed} single {place}"),
            )

    async def run(self) -> None:
        """Run; what was found is in the journal."""
        tasks = [asyncio.create_task(each) for each in (self._reader.read(), send_points(self.chaos))]
        try:
            await self.chaos.run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._reader.check_complete()


def summarize(run: ChaosRun, journal_path: Path) -> dict[str, Any]:
    """Return the result of a run."""
    events = [json.loads(line) for line in journal_path.read_text(encoding="ascii").splitlines()]
    killed = [event for event in events if event["event"] == "part_killed"]
    parts = {}
    for part in sorted({event["part"] for event in killed}):
        own = [event for event in killed if event["part"] == part]
        waits = [event["others_acked_after"] for event in own if event["others_acked_after"] is not None]
        parts[part] = {
            "kills": len(own),
            "away_seconds": _describe([event["away_seconds"] for event in own]),
            "others_acked_after_seconds": _describe(waits),
        }
    return {
        "machine": describe_machine(),
        "workers": WORKERS,
        "seed": run.plan.seed,
        "parts": parts,
        "checked": dict(sorted(run.journal.checked.items())),
        "findings": dict(run.journal.findings),
    }


def _describe(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": round(statistics.median(seconds), 3), "largest": round(max(seconds), 3)}


def main() -> int:
    """Run, write the result, and return 0 if every promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each process [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the rows [default: %(default)s]")
    parser.add_argument("--result", help="name of the file in benchmarks/results [default: none is written]")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streamd-kill-"))
    print(f"{args.kills} kills of each process; logs in {folder}", flush=True)
    with (folder / "chaos.jsonl").open("w", encoding="ascii") as file:
        journal = Journal(file)
        run = KillRun(folder, args.kills, journal, args.seed)
        asyncio.run(run.run())
    result = summarize(run.chaos, folder / "chaos.jsonl")
    return end_run(journal, result, args.result)


if __name__ == "__main__":
    sys.exit(main())
