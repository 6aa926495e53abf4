"""Four daemons that share a fleet over three servers of NATS, on this machine, and some of them fail.

Recorded metrics of real servers go into all nodes, a five-minute step each second. A node is killed, one is cut off for
20 seconds, the NATS server that leads is killed, and a node is drained. Shown after each: which node has which shards,
and the seconds until there were new forecasts. Counted at the end: rows that were acknowledged and are missing, and
forecasts that came again with other numbers. The exit status is 0 if there are none, and each shard was taken over.
Takes about two minutes.

Each program is on a host of its own, a network namespace, which needs root and `ip`; without, all are on the loopback
interface, and the node is stopped (SIGSTOP) in place of being cut off. All processes and files are removed at the end.
"""

import argparse
import asyncio
import contextlib
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import structlog

from benchmarks.chaos.links import MSGPACK, LinkLostError, RefusedError
from benchmarks.cluster.senders import RoamingLink
from benchmarks.cluster.site import Site, running_site, stop_by_signal
from streamd.core.cluster.shards import find_shard
from streamd.repository.versions import EngineRepository
from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.shipped import find_shipped_files

NODES, NATS, SHARDS = 4, 3, 16
COPIES = 4
FILL_STEPS, STEP_PAUSE_SECONDS = 60, 1.0
CUT_SECONDS = 20.0
TAKEOVER_SECONDS = 30.0
QUIET_SECONDS = 3.0
SETTINGS = {
    "MAX_SERVERS": "256",
    "LANES": "1",
    "REBALANCE_DELAY_SECONDS": "5",
    "LOG_LEVEL": "warning",
    "ROW_GRACE_SECONDS": "2",
}


class DemoRows:
    """The rows that are sent, step by step: copies of the recorded servers, each at another time of day."""

    def __init__(self, fleet: RecordedFleet, step_seconds: int, now: float) -> None:
        self.features = fleet.features
        self.step_seconds = step_seconds
        self.names = [f"{name}.site-{copy + 1}" for copy in range(COPIES) for name in fleet.servers]
        self._series = np.concatenate([np.roll(fleet.series, 61 * copy, axis=1) for copy in range(COPIES)])
        self.first_step = int(now // step_seconds) - fleet.steps
        self.sent_at: list[float] = []
        """When each step was sent first."""

    def read_step(self, number: int) -> Any:
        """Return the rows of a step, `(servers, features) float32`."""
        return self._series[:, number % self._series.shape[1]]

    def make_body(self, number: int) -> dict[str, Any]:
        """Return the step as columns."""
        values = np.ascontiguousarray(self.read_step(number), "<f4")
        tensor = {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()}
        time_seconds = (self.first_step + number) * self.step_seconds
        columns = {"servers": self.names, "time": time_seconds, "features": self.features, "values": tensor}
        return {"columns": columns}


class DemoLedger:
    """The forecasts that readers got."""

    def __init__(self, rows: DemoRows) -> None:
        self.forecasts = 0
        self.doubled = 0
        self.waiting: set[int] = set()
        self.taken_over: list[float] = []
        self.longest_pause = 0.0
        self._rows = rows
        self._shards = {name: find_shard(name, SHARDS) for name in rows.names}
        self._made: dict[tuple[str, float], bytes] = {}
        self._last_at = dict.fromkeys(self._shards.values(), time.monotonic())
        self._began = 0.0

    def begin(self, shards: Sequence[int]) -> None:
        """Measure from now on how long these shards have no forecast of a row that is sent later."""
        self._began = time.monotonic()
        self.waiting = set(shards) & set(self._shards.values())
        self.taken_over, self.longest_pause = [], 0.0
        self._last_at = dict.fromkeys(self._last_at, self._began)

    def take(self, message: dict[str, Any]) -> None:
        """Take a forecast."""
        if not message.get("fence"):
            return  # the log has been away: another node may still make another one
        server, origin, now = message["server"], message["origin"], time.monotonic()
        numbers = message["values"]["data"]
        before = self._made.get((server, origin))
        if before is not None:
            self.doubled += before != numbers
            return
        self._made[server, origin] = numbers
        self.forecasts += 1
        shard = self._shards[server]
        self.longest_pause = max(self.longest_pause, now - self._last_at[shard])
        self._last_at[shard] = now
        number = round(origin / self._rows.step_seconds) - 1 - self._rows.first_step
        if shard in self.waiting and self._rows.sent_at[number] > self._began:
            self.waiting.discard(shard)
            self.taken_over.append(now - self._began)


class ClusterDemo:
    """The demo; `say` gets each line that is shown."""

    def __init__(self, site: Site, rows: DemoRows, say: Callable[[str], None]) -> None:
        self.site = site
        self.rows = rows
        self.ledger = DemoLedger(rows)
        self.acked_rows = 0
        self.missing_rows = 0
        self.shards_not_taken = 0
        self._say = say
        self._is_stopping = False

    async def run(self) -> bool:
        """Run; returns whether all went as promised."""
        urls = [node.url for node in self.site.nodes]
        link = RoamingLink(urls, is_socket=False, content_type=MSGPACK)
        tasks = [asyncio.create_task(self._read(urls[place:] + urls[:place])) for place in (0, 1)]
        sender = asyncio.create_task(self._send(link, urls))
        try:
            await self._wait_forecasts(len(self.rows.names))
            self._say(
                f"\nReady. Each second, a row of each of {len(self.rows.names)} recorded servers is sent, to one node "
                "after another;\ntwo readers get all forecasts. "
                f"The servers are in {SHARDS} shards, each of which one node has.\n`streamd cluster status` shows:"
            )
            await self._show_status()
            await self._kill_node(self.site.nodes[-1].name)
            await self._cut_node(self.site.nodes[0].name)
            await self._kill_leader()
            await self._drain(self.site.nodes[1].name)
            self._is_stopping = True
            await sender
            self._say("\nEnd. The rows in the windows of all nodes are compared with those that were sent")
            await asyncio.sleep(2.0)
            await self._compare_windows()
        finally:
            for task in (*tasks, sender):
                task.cancel()
            await asyncio.gather(*tasks, sender, return_exceptions=True)
            await link.close()
        self._say(
            f"  {self.acked_rows:,} rows were acknowledged, {self.missing_rows} of them are missing\n"
            f"  {self.ledger.forecasts:,} forecasts were read, {self.ledger.doubled} came again with other numbers\n"
            f"  {self.shards_not_taken} shards had no new forecast within {TAKEOVER_SECONDS:g} s after a fault"
        )
        is_good = not (self.missing_rows or self.ledger.doubled or self.shards_not_taken)
        self._say("\nAll went as promised." if is_good else "\nFAILED: each of these numbers should be 0.")
        return is_good

    # ------------------------------------------------------------ load
    async def _send(self, link: RoamingLink, urls: Sequence[str]) -> None:
        while not self._is_stopping:
            number = len(self.rows.sent_at)
            self.rows.sent_at.append(time.monotonic())
            payload = link.encode(self.rows.make_body(number))
            while True:
                try:
                    answer = await link.exchange(payload)
                    break
                except (LinkLostError, RefusedError):
                    await asyncio.sleep(0.1)
            accepted = answer["accepted"]
            assert isinstance(accepted, int)
            self.acked_rows += accepted
            await link.disconnect()  # the next step goes into the next node
            if number >= FILL_STEPS:
                await asyncio.sleep(STEP_PAUSE_SECONDS)

    async def _read(self, urls: list[str]) -> None:
        """Read all forecasts, and go on at the next node when this one ends or is silent."""
        last_id = 0
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.ws_connect(
                        f"{urls[0]}/v1/forecasts", max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=0.2)
                    ) as socket:
                        message: dict[str, Any] = {"type": "subscribe", "servers": ["*"], "ids": True}
                        await socket.send_bytes(
                            msgspec.msgpack.encode(message | ({"last_event_id": last_id} if last_id else {}))
                        )
                        while (frame := await socket.receive(QUIET_SECONDS)).type is aiohttp.WSMsgType.BINARY:
                            found = msgspec.msgpack.decode(frame.data)
                            if found["type"] == "forecast":
                                self.ledger.take(found)
                            last_id = found.get("id", last_id)
                urls.append(urls.pop(0))
                await asyncio.sleep(0.1)

    # ------------------------------------------------------------ events
    async def _kill_node(self, name: str) -> None:
        node = self.site.find_node(name)
        await self._try_node(f"{name} is killed (kill -9)", name, node.program.kill, node.start_and_wait)

    async def _cut_node(self, name: str) -> None:
        site, node = self.site, self.site.find_node(name)
        began = time.monotonic()

        async def undo() -> None:
            await asyncio.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
            site.join(node)
            await node.wait_ready()

        what = "cut off from the network" if site.network.can_cut else "stopped (SIGSTOP)"
        await self._try_node(f"{name} is {what} for {CUT_SECONDS:g} seconds", name, lambda: site.cut(node), undo)

    async def _try_node(
        self, title: str, name: str, apply: Callable[[], None], undo: Callable[[], Awaitable[None]]
    ) -> None:
        shards = self.site.leases.list_shards(name)
        self._say(f"\n{title}. It has the shards {', '.join(map(str, shards))}")
        self.ledger.begin(shards)
        apply()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKEOVER_SECONDS):
                while self.ledger.waiting:
                    await asyncio.sleep(0.1)
        taken = self.ledger.taken_over
        if taken:
            self._say(
                f"  other nodes forecast its servers after {statistics.median(taken):.1f} s (median of its shards), "
                f"{max(taken):.1f} s (the last one)"
            )
        if self.ledger.waiting:
            self.shards_not_taken += len(self.ledger.waiting)
            self._say(
                f"  FAILED: the shards {sorted(self.ledger.waiting)} have no forecast after {TAKEOVER_SECONDS:g} s"
            )
        for shard in shards:
            self._say(f"  shard {shard} is now at {self.site.leases.owners[shard]}")
        await undo()
        seconds = await self.site.wait_owned()
        self._say(f"  {name} is back; {seconds:.0f} s later it has its share of the shards again")
        await self._show_status()

    async def _kill_leader(self) -> None:
        leader = await self.site.nats.find_leader()
        assert leader is not None, "the servers have a leader"
        self._say(f"\n{leader}, the NATS server that leads, is killed; the two others elect a new leader in 4 to 9 s")
        self.ledger.begin(range(SHARDS))
        self.site.nats.kill(leader)
        await asyncio.sleep(12.0)
        self._say(f"  longest time without a new forecast, of any shard: {self.ledger.longest_pause:.1f} s")
        await self.site.nats.start(leader)

    async def _drain(self, name: str) -> None:
        self._say(f"\n{name} is drained: `streamd cluster drain {name}`")
        self.ledger.begin([])
        await self._run_command("drain", name)
        self._say(f"  longest time without a new forecast, of any shard: {self.ledger.longest_pause:.1f} s")
        await self._show_status()
        await self._run_command("undrain", name)

    # ------------------------------------------------------------ what is shown
    async def _wait_forecasts(self, count: int) -> None:
        async with asyncio.timeout(120.0):
            while self.ledger.forecasts < count:
                await asyncio.sleep(0.2)

    async def _show_status(self) -> None:
        for line in (await self._run_command("status")).splitlines():
            self._say(f"  {line}".rstrip())

    async def _run_command(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamd", "cluster", *arguments, "--cluster", self.site.nats.urls),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode()

    async def _compare_windows(self) -> None:
        """Read the window of each server at any node, and count the rows that it lacks."""
        last = len(self.rows.sent_at) - 1
        for place, name in enumerate(self.rows.names):
            node = self.site.nodes[place % NODES]
            status, answer = await node.read(f"/v1/servers?server={name}")
            if status != 200:
                self._say(f"  {name} at {node.name}: {status} {answer}")
                self.missing_rows += last + 1
                continue
            newest = round(answer["origin"] / self.rows.step_seconds) - 1 - self.rows.first_step
            self.missing_rows += max(0, last - newest)
            held = np.array([[np.nan if cell is None else cell for cell in row] for row in answer["values"]], "<f4")
            columns = [answer["features"].index(feature) for feature in self.rows.features]
            for back, row in enumerate(held[::-1, columns]):
                if newest - back >= 0:
                    sent = self.rows.read_step(newest - back)[place]
                    self.missing_rows += not np.array_equal(row, sent, equal_nan=True)


def main() -> int:
    """Run the demo; returns 0 if all went as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loopback", action="store_true", help="no namespaces, also as root")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    files = find_shipped_files()
    contract = EngineRepository(files.engines).choose().contract
    recorded = read_fleet(files.fleet, contract.step_seconds).select_features(contract.features)
    rows = DemoRows(recorded, contract.step_seconds, time.time())
    with tempfile.TemporaryDirectory(prefix="streamd-cluster-") as folder:
        settings = {**SETTINGS, "ENGINES": str(files.engines)}
        try:
            site = Site(
                Path(folder), nodes=NODES, nats=NATS, shards=SHARDS, settings=settings, on_loopback=args.loopback
            )
        except FileNotFoundError as error:
            print(f"cluster demo: {error}", file=sys.stderr)
            return 2
        print(f"Starting {NATS} servers of NATS and {NODES} nodes, on {site.network.description}", flush=True)
        try:
            return 0 if asyncio.run(stop_by_signal(_run(site, rows))) else 3
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("cluster demo: stopped, with every process of it", file=sys.stderr)
            return 130
        except (TimeoutError, RuntimeError) as error:
            print(f"cluster demo: {error}", file=sys.stderr)
            return 1


async def _run(site: Site, rows: DemoRows) -> bool:
    async with running_site(site):
        return await ClusterDemo(site, rows, lambda line: print(line, flush=True)).run()


if __name__ == "__main__":
    sys.exit(main())
