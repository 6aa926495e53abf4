"""A fleet that remote writes at its real rate into a daemon on one core: CPU share, lag, loop stalls, memory, rows.

Each server has the 100 series of `agent_bodies.py` and is scraped once a minute; 20 servers are one body of 2,000
samples (remote write 1.0, snappy), and the bodies are spread over the minute as one Prometheus spreads its scrapes.
First some scrapes of the past are sent as fast as they are taken, so that points are kept as in a daemon that runs for
long; then the real rate is sent for a time that, unless `--any-time` is given, has the end of a step in its middle.

The daemon is bound to one core and the clients to the others; on a machine with one core they share it. No forecast is
made: windows count as full only with 288 rows, because a CPU makes 2,000 forecasts a second at best and the lanes would
take the core. The small requests that measure stalls, 20 a second, are part of the CPU share. Not measured: forecasts
and their delivery, TLS, a network, gzip, new series during the run, more connections than there are bodies in progress,
disk write-back by the kernel.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import struct
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import cramjam
import numpy as np
import numpy.typing as npt

if __name__ == "__main__":
    # As a script, Python puts this folder on the path; the benchmarks are imported from its parent.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.agent_bodies import REMOTE_WRITE_SERVERS, SCRAPE_SECONDS, SERIES, make_remote_write_1
from benchmarks.harness import ROOT, DaemonProcess, describe_machine, running_daemon, write_result
from benchmarks.ingest import STEP_SECONDS

CONNECTIONS = 4
HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
GRACE_SECONDS = 10
"""The default of `row_grace_seconds`."""

MAX_ROW_SECONDS = 60.0
REPORT_SECONDS = 10.0
PING_SECONDS = 0.05
TIMEOUT_SECONDS = 120.0

Bytes = npt.NDArray[np.uint8]


class BodyMaker:
    """Makes bodies of 20 servers from one that is encoded already: names, values and times have fixed places."""

    def __init__(self) -> None:
        body = bytes(cramjam.snappy.decompress_raw(make_remote_write_1(range(REMOTE_WRITE_SERVERS), 0)))
        ends = np.array([end for _, end in _walk_series(body)])
        names = np.array([body.rfind(b"web-", 0, end) + 4 for end in ends])
        self._body: Bytes = np.frombuffer(bytearray(body), np.uint8)
        self._names = names[:, None] + np.arange(5)
        self._values = ends[:, None] + np.arange(-15, -7)
        self._times = ends[:, None] + np.arange(-6, 0)
        first = struct.unpack("<2000d", self._body[self._values].tobytes())
        self._first = np.array(first)

    def make(self, first_server: int, minute: int, time_ms: int) -> bytes:
        """Make the body of the servers from `first_server` on."""
        servers = np.repeat(np.arange(first_server, first_server + REMOTE_WRITE_SERVERS), SERIES)
        digits = servers[:, None] // 10 ** np.arange(4, -1, -1) % 10
        self._body[self._names] = digits + ord("0")
        # Every series rises: to a gauge it is one value like another.
        self._body[self._values] = (self._first + 20.0 * minute).view(np.uint8).reshape(-1, 8)
        self._body[self._times] = np.frombuffer(_encode_varint(time_ms), np.uint8)
        return bytes(cramjam.snappy.compress_raw(self._body.tobytes()))


def _walk_series(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each series; all are shorter than 2**14 bytes."""
    at = 0
    while at < len(body):
        size, begin = body[at + 1], at + 2
        if size > 127:
            size, begin = (size & 127) | body[at + 2] << 7, at + 3
        at = begin + size
        assert body[at - 18 : at - 16] == b"\x12\x10", "a series ends with its sample"
        yield begin, at


def _encode_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    assert len(encoded) == 6, "a time between 2004 and 2109"
    return bytes(encoded)


@dataclass
class Sent:
    """What was sent, and what came of it."""

    bodies: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Bodies that were not taken, by answer."""
    lags: list[float] = field(default_factory=list)
    """Seconds between the time at which a body was due and its answer."""


class Fleet:
    """The servers, as groups of 20 that are scraped at the same second of each minute."""

    def __init__(self, daemon: DaemonProcess, session: aiohttp.ClientSession, servers: int) -> None:
        self.groups = servers // REMOTE_WRITE_SERVERS
        self.first_times: dict[int, float] = {}
        """The first scrape of each group."""
        self._url = f"{daemon.url}/api/v1/write"
        self._session = session
        self._maker = BodyMaker()
        self._queue: asyncio.Queue[tuple[int, float, int] | None] = asyncio.Queue()

    def find_offset(self, group: int) -> float:
        """Return the second of a group within each minute."""
        return SCRAPE_SECONDS * group / self.groups

    async def send_past(self, start: float, scrapes: int, sent: Sent) -> None:
        """Send scrapes of the minutes before `start`, as fast as they are taken."""
        for minute in range(-scrapes, 0):
            for group in range(self.groups):
                await self._queue.put((group, start + minute * SCRAPE_SECONDS + self.find_offset(group), minute))
            await self._work_off(sent)

    async def send_present(self, start: float, seconds: float, sent: Sent) -> None:
        """Send each scrape at its time."""
        workers = [asyncio.create_task(self._work(sent)) for _ in range(CONNECTIONS)]
        for minute in range(math.ceil(seconds / SCRAPE_SECONDS)):
            for group in range(self.groups):
                due = start + minute * SCRAPE_SECONDS + self.find_offset(group)
                if due >= start + seconds:
                    break
                if (wait := due - time.time()) > 0:
                    await asyncio.sleep(wait)
                self._queue.put_nowait((group, due, minute))
        for _ in workers:
            self._queue.put_nowait(None)
        await asyncio.gather(*workers)

    @property
    def backlog(self) -> int:
        """The bodies that are due and not sent."""
        return self._queue.qsize()

    async def _work_off(self, sent: Sent) -> None:
        for _ in range(CONNECTIONS):
            self._queue.put_nowait(None)
        await asyncio.gather(*(self._work(sent) for _ in range(CONNECTIONS)))

    async def _work(self, sent: Sent) -> None:
        while (item := await self._queue.get()) is not None:
            group, due, minute = item
            self.first_times.setdefault(group, due)
            body = self._maker.make(group * REMOTE_WRITE_SERVERS, minute, int(due * 1000))
            async with self._session.post(self._url, data=body, headers=HEADERS) as answer:
                text = await answer.text()
            sent.bodies += 1
            sent.lags.append(time.time() - due)
            if answer.status not in (204, 503):
                raise ValueError(f"a body is answered with {answer.status}: {text[:500]}")
            if answer.status != 204:
                reason = f"{answer.status} {text[:200]}".strip()
                sent.refused[reason] = sent.refused.get(reason, 0) + 1


# ---------------------------------------------------------------- loop stalls
def ping(url: str, seconds: float) -> list[float]:
    """Return the seconds that each of many small requests took, one after the other."""
    taken, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            answer.read()
        taken.append(time.monotonic() - began)
        time.sleep(PING_SECONDS)
    return taken


async def _start_pinging(url: str, seconds: float) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "benchmarks.agent_fleet", "--ping", url, "--seconds", str(seconds)]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


# ---------------------------------------------------------------- the run
async def _watch(daemon: DaemonProcess, fleet: Fleet, sent: Sent, shares: list[float]) -> None:
    while True:
        cpu, began, bodies = daemon.read_cpu_seconds(), time.monotonic(), len(sent.lags)
        await asyncio.sleep(REPORT_SECONDS)
        shares.append((daemon.read_cpu_seconds() - cpu) / (time.monotonic() - began))
        lag = max(sent.lags[bodies:], default=0.0)
        megabytes = daemon.read_memory_bytes()["anonymous"] / 2**20
        print(
            f"  CPU {shares[-1]:.0%}, lag {lag:.2f} s at most, {fleet.backlog} bodies wait, heap {megabytes:,.0f} MiB"
        )


def choose_start(seconds: float, is_any_time: bool, after: float) -> float:
    """Return when to send the real rate: so that a step ends in the middle, unless any time will do."""
    if is_any_time or seconds >= STEP_SECONDS:
        return after
    start = math.ceil((after + seconds / 2) / STEP_SECONDS) * STEP_SECONDS - seconds / 2
    return start if start >= after else start + STEP_SECONDS


async def find_missing_rows(
    daemon: DaemonProcess, session: aiohttp.ClientSession, fleet: Fleet, last_end: float
) -> dict[str, int]:
    """Compare the rows of every server with those that its scrapes make, up to the step that ends at `last_end`."""
    found: dict[str, tuple[int, int]] = {}
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "1000", "cursor": cursor}
        async with session.get(f"{daemon.url}/v1/servers", params=query) as answer:
            page = await answer.json()
        found |= {each["server"]: (each["have"], each["origin"] or 0) for each in page["servers"]}
        cursor = page["next"]
    expected = missing = behind = 0
    for group, first in fleet.first_times.items():
        rows = int(last_end // STEP_SECONDS) - int(first // STEP_SECONDS)
        for server in range(group * REMOTE_WRITE_SERVERS, (group + 1) * REMOTE_WRITE_SERVERS):
            have, origin = found.get(f"web-{server:05d}", (0, 0))
            expected += max(rows, 0)
            missing += max(rows - have, 0)
            behind += rows > 0 and origin < last_end
    return {"expected": expected, "missing": missing, "servers_behind": behind}


async def wait_for_rows(daemon: DaemonProcess, session: aiohttp.ClientSession, fleet: Fleet) -> dict[str, float]:
    """Wait until the rows of the last step that is over are there, or for `MAX_ROW_SECONDS` after their grace."""
    last_end = time.time() // STEP_SECONDS * STEP_SECONDS
    while True:
        await asyncio.sleep(max(last_end + GRACE_SECONDS - time.time(), 1.0))
        rows = await find_missing_rows(daemon, session, fleet, last_end)
        seconds = time.time() - last_end - GRACE_SECONDS
        if not rows["missing"] or seconds > MAX_ROW_SECONDS:
            return {**rows, "seconds_after_grace_at_most": round(seconds, 1)}


def _summarize(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        "median": round(statistics.median(ordered), 4),
        "p99": round(ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)], 4),
        "max": round(ordered[-1], 4),
    }


async def measure(daemon: DaemonProcess, args: argparse.Namespace) -> dict[str, Any]:
    """Send the past and then the present; returns what was measured."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        fleet, past, sent = Fleet(daemon, session, args.servers), Sent(), Sent()
        memory_empty = daemon.read_memory_bytes()
        guess = time.time() + args.servers * SERIES * args.history / 100_000  # so fast, or the start moves on
        start = choose_start(args.seconds, args.any_time, guess)
        cpu, began = daemon.read_cpu_seconds(), time.monotonic()
        await fleet.send_past(start, args.history, past)
        cpu, elapsed = daemon.read_cpu_seconds() - cpu, time.monotonic() - began
        samples = past.bodies * REMOTE_WRITE_SERVERS * SERIES
        print(f"the past: {samples:,} samples in {elapsed:.1f} s, {samples / max(cpu, 0.01):,.0f} a CPU second")
        if args.any_time:
            start = time.time()
        await asyncio.sleep(max(start - time.time(), 0.0))
        status = (await daemon.fetch_status(session))["agents"]
        pinging = await _start_pinging(f"{daemon.url}/healthz", args.seconds)
        shares: list[float] = []
        watching = asyncio.create_task(_watch(daemon, fleet, sent, shares))
        cpu, began = daemon.read_cpu_seconds(), time.monotonic()
        await fleet.send_present(start, args.seconds, sent)
        cpu, elapsed = daemon.read_cpu_seconds() - cpu, time.monotonic() - began
        watching.cancel()
        pings: list[float] = json.loads((await pinging.communicate())[0])
        rows = await wait_for_rows(daemon, session, fleet)
        after = (await daemon.fetch_status(session))["agents"]
        counts = after["protocols"]["remote_write"]
        all_samples = (past.bodies + sent.bodies) * REMOTE_WRITE_SERVERS * SERIES
        return {
            "servers": args.servers,
            "seconds": round(elapsed, 1),
            "past_scrapes": args.history,
            "samples_per_second": round(sent.bodies * REMOTE_WRITE_SERVERS * SERIES / elapsed),
            "cpu_share": round(cpu / elapsed, 3),
            "cpu_share_max": round(max(shares, default=0.0), 3),
            "samples_per_cpu_second": round(sent.bodies * REMOTE_WRITE_SERVERS * SERIES / max(cpu, 0.01)),
            "lag_seconds": _summarize(sent.lags),
            "answer_to_a_small_request_seconds": _summarize(pings),
            "refused_bodies": past.refused | sent.refused,
            "samples_unaccounted": all_samples - counts["taken"] - sum(counts["ignored"].values()),
            "samples_rejected": counts["rejected"],
            "rows_written": after["rows"] - status["rows"],
            "rows": rows,
            "points_kept": after["points"],
            "heap_bytes_per_server": round(
                (daemon.read_memory_bytes()["anonymous"] - memory_empty["anonymous"]) / args.servers
            ),
            "memory_bytes": daemon.read_memory_bytes(),
        }


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start the daemon on the last core, and the client on the others."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])  # the daemon inherits it
    settings: dict[str, object] = {"max_servers": args.servers, "min_context_rows": 288, "lanes": 1}
    if args.max_points:
        settings["max_points"] = args.max_points
    async with running_daemon(**settings) as daemon:
        os.sched_setaffinity(0, cores[:-1] or cores)
        return await measure(daemon, args)


def main() -> int:
    """Run the fleet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=20_000, help="a multiple of 20 [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=120.0, help="at the real rate [default: %(default)s]")
    parser.add_argument("--history", type=int, default=5, help="scrapes of the past; 20 fill all steps that are kept")
    parser.add_argument("--any-time", action="store_true", help="do not wait until the end of a step is near")
    parser.add_argument("--max-points", type=int, default=0, help="the daemon's setting [default: its own]")
    parser.add_argument("--ping", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ping:
        print(json.dumps(ping(args.ping, args.seconds)))
        return 0
    if args.servers % REMOTE_WRITE_SERVERS or args.servers < REMOTE_WRITE_SERVERS:
        parser.error(f"--servers must be a multiple of {REMOTE_WRITE_SERVERS}")
    machine = describe_machine()  # before this process is bound to some of its cores
    result = {"machine": machine, **asyncio.run(run(args))}
    print(json.dumps(result, indent=1))
    print(f"written to {write_result('agent_fleet', result).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
