"""One chaos run: load, faults, checks after each restart, and a last check when all faults are over."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmarks.chaos.faults import FAULTS, list_conflicts
from benchmarks.chaos.history import ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.links import JSON, MSGPACK, SampleLink
from benchmarks.chaos.model import CONTRACT, MISSING, write_versions
from benchmarks.chaos.orders import LaneOrders, write_orders
from benchmarks.chaos.parts import PART_FAULTS
from benchmarks.chaos.process import ChaosProcess, SmallDisk
from benchmarks.chaos.sender import ChaosSender
from benchmarks.chaos.subscriber import ChaosSubscriber, ForecastChecker, SubscriberPlan
from benchmarks.chaos.tokens import GUEST, ChaosTokens
from benchmarks.chaos.watch import LifeWatch
from streamd.server.config import SECTIONS

STEPS_BEFORE_NOW = 40 * 86_400 // CONTRACT.step_seconds
"""Where the rows begin: so far in the past that they never reach the present."""

IDLE_SECONDS = 60.0
PENDING_ATTEMPTS, PENDING_PAUSE_SECONDS = 40, 0.1
WATCH_SECONDS = 0.5
SAMPLES_BETWEEN_LINES = 20
"""Samples of memory and descriptors, of which one is written to the journal."""

_FAULTS = FAULTS | PART_FAULTS

DEFECTS = ("Traceback", '"handler_failed"', '"connection_failed"', '"level": "critical"')
"""What the log of a daemon without defects never has."""

LINKS = ((True, JSON), (True, MSGPACK), (False, JSON), (False, MSGPACK))


@dataclass(frozen=True, kw_only=True)
class ChaosPlan:
    """The size of a run."""

    seed: int = 1
    seconds: float = 60.0
    """The time in which faults are drawn; the last quarter of a run of minutes has no restarts."""
    faults: tuple[str, ...] = ()
    """Faults one after the other instead of drawn ones."""
    without: tuple[str, ...] = ()
    """Faults that are not drawn."""
    servers: int = 40
    senders: int = 8
    send_pause_seconds: float = 0.2
    """The pause of a sender between frames: each has a row of each of its servers."""
    gap_seconds: float = 3.0
    """The mean pause before the next fault."""
    fault_seconds: tuple[float, float] = (0.5, 6.0)
    """The shortest and the longest fault."""


class ChaosRun:
    """One run in a folder; `run` returns once everything was checked."""

    def __init__(self, folder: Path, plan: ChaosPlan, journal: Journal) -> None:
        self.plan = plan
        self.journal = journal
        self.random = Random(plan.seed)
        self.watch = LifeWatch()
        self.orders = folder / "orders.json"
        write_orders(self.orders, LaneOrders())
        self.disk = SmallDisk(folder / "disk")
        engines = write_versions(folder / "engines")
        self.process = ChaosProcess(folder, self.disk.folder / "state", engines, self.orders, journal)
        self.tokens = ChaosTokens(folder / "tokens.json", are_used="tokens_file" in SECTIONS)
        if self.tokens.are_used:
            self.process.settings["TOKENS_FILE"] = str(self.tokens.path)
        self.process.headers = self.tokens.make_headers("reader")
        numbers = range(plan.servers)
        self.histories = {number: ServerHistory(f"{('web', 'db')[number % 2]}-{number:03d}") for number in numbers}
        self.senders = [self._make_sender(place) for place in range(plan.senders)]
        checker = ForecastChecker({each.name: each for each in self.histories.values()}, journal)
        self.subscribers = [
            ChaosSubscriber(each, self.process.url, checker, journal) for each in self._plan_subscribers()
        ]
        self._began = time.monotonic()

    async def run(self) -> None:
        """Run; what was found is in the journal."""
        self._note_skipped_faults()
        try:
            await self.process.start()
            async with self._watching():
                senders = [asyncio.create_task(each.run(self.plan.send_pause_seconds)) for each in self.senders]
                async with self._subscribed():
                    await (self._make_listed_faults() if self.plan.faults else self._make_drawn_faults())
                    await self._finish(senders)
            status = await self.process.stop()
            if status != 0:
                self.journal.report("bad_exit", f"the daemon ended with {status} after SIGTERM, expected 0")
        finally:
            if self.process.pid is not None:
                self.process.kill()
            self.disk.unmount()
        self._read_log()

    # ------------------------------------------------------------ parts
    def _make_sender(self, place: int) -> ChaosSender:
        is_socket, content_type = LINKS[place % len(LINKS)]
        headers = self.tokens.make_headers("sender")
        link = SampleLink(self.process.url, headers, is_socket=is_socket, content_type=content_type)
        servers = {number: each for number, each in self.histories.items() if number % self.plan.senders == place}
        first_step = int(time.time()) // CONTRACT.step_seconds - STEPS_BEFORE_NOW
        random = Random(f"{self.plan.seed} {place}")
        return ChaosSender(link, self.process.port, servers, first_step=first_step, journal=self.journal, random=random)

    def _plan_subscribers(self) -> list[SubscriberPlan]:
        everything, web, guest = ("everything", "web", GUEST)
        return [
            self._plan_subscriber("json", everything),
            self._plan_subscriber("batches", everything, is_msgpack=True, batch=True),
            self._plan_subscriber("stream", everything, is_stream=True),
            self._plan_subscriber("web", web, globs=("*",), is_msgpack=True),
            self._plan_subscriber("globs", everything, globs=("db-00?", "web-0[12]*", "web-000")),
            self._plan_subscriber(GUEST, guest, globs=("*",), is_msgpack=True, batch=True),
        ]

    def _plan_subscriber(self, name: str, token: str, globs: tuple[str, ...] = ("*",), **form: bool) -> SubscriberPlan:
        allowed, headers = self.tokens.list_allowed(token), self.tokens.make_headers(token)
        return SubscriberPlan(name=name, globs=globs, allowed=allowed, headers=headers, **form)

    @contextlib.asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each.run()) for each in self.subscribers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    self.journal.report("checker_failed", repr(ended))

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        async def watch() -> None:
            for count in itertools.count():
                process = self.process
                if (pid := process.pid) is not None:
                    age = time.monotonic() - process.began
                    self.watch.take_sample(process.lives, process.began - self._began, age, pid)
                    if count % SAMPLES_BETWEEN_LINES == 0 and (samples := self.watch.samples[process.lives]):
                        seconds, memory, descriptors = samples[-1]
                        self.journal.write(
                            "memory", life=process.lives, age=round(seconds, 1), bytes=memory, descriptors=descriptors
                        )
                await asyncio.sleep(WATCH_SECONDS)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()

    # ------------------------------------------------------------ faults
    def _note_skipped_faults(self) -> None:
        self.disk.mount()
        for fault in FAULTS.values():
            if not fault.needs(self):
                self.journal.write("fault_skipped", fault=fault.name)
                self.journal.count(f"SKIPPED {fault.name}")

    async def _make_listed_faults(self) -> None:
        for name in self.plan.faults:
            if _FAULTS[name].needs(self):
                await self._make_fault(name, self.plan.fault_seconds[0])
            await asyncio.sleep(self.plan.gap_seconds)

    async def _make_drawn_faults(self) -> None:
        ends_at = time.monotonic() + self.plan.seconds
        quiet_at = ends_at - self.plan.seconds / 4
        running: dict[asyncio.Task[None], str] = {}
        usable = [fault for fault in FAULTS.values() if fault.needs(self) and fault.name not in self.plan.without]
        while time.monotonic() < ends_at:
            await asyncio.sleep(self.random.expovariate(1 / self.plan.gap_seconds))
            for task in [each for each in running if each.done()]:
                task.result()
                del running[task]
            excluded = {each for name in running.values() for each in list_conflicts(name)}
            if time.monotonic() > quiet_at:
                excluded |= {"kill", "restart"}
            free = [fault for fault in usable if fault.name not in excluded]
            if free:
                (fault,) = self.random.choices(free, [each.weight for each in free])
                seconds = self.random.uniform(*self.plan.fault_seconds)
                running[asyncio.create_task(self._make_fault(fault.name, seconds))] = fault.name
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _make_fault(self, name: str, seconds: float) -> None:
        self.journal.write("fault", name=name, seconds=round(seconds, 2))
        await _FAULTS[name].apply(self, seconds)
        self.journal.write("fault_over", name=name)
        self.journal.count(f"fault {name}")

    # ------------------------------------------------------------ checks
    async def check_state(self) -> None:
        """Check that the window and the latest forecast of each server are what was acknowledged and delivered."""
        async with aiohttp.ClientSession(headers=self.process.headers) as session:
            for history in self.histories.values():
                closed = history.closed_step
                if closed < 0:
                    continue
                try:
                    await self._check_window(session, history, closed)
                    await self._check_latest(session, history)
                except (aiohttp.ClientError, OSError):
                    return  # another fault ended the daemon
        self.journal.count("states_checked")

    async def _check_window(self, session: aiohttp.ClientSession, history: ServerHistory, closed: int) -> None:
        begin = time.monotonic()
        url = f"{self.process.url}/v1/servers"
        async with session.get(url, params={"server": history.name}) as response:
            answer = await response.json()
        if response.status == 503:
            return  # another process of the daemon is being started again, or the daemon
        if response.status != 200:
            self.journal.report("lost_rows", f"{history.name}: {response.status} {answer}, expected its window")
            return
        end = time.monotonic()
        newest = round(answer["origin"] / CONTRACT.step_seconds) - 1
        if newest < closed:
            self.journal.report("lost_rows", f"{history.name}: its newest row is {newest}, {closed} was acknowledged")
        rows = [[MISSING if cell is None else cell for cell in row] for row in answer["values"]]
        for wrong in history.find_wrong_cells(newest, rows, begin, end):
            self.journal.report("lost_rows", wrong)
        self.journal.count("windows_checked")

    async def _check_latest(self, session: aiohttp.ClientSession, history: ServerHistory) -> None:
        delivered = history.delivered
        url = f"{self.process.url}/v1/forecasts"
        for _ in range(PENDING_ATTEMPTS):
            async with session.get(url, params={"server": history.name}) as response:
                answer = await response.json()
            if answer.get("status") != "pending":
                break
            await asyncio.sleep(PENDING_PAUSE_SECONDS)  # an engine process that posted it was killed: it is made again
        if delivered < 0 or answer.get("type") == "error":
            return  # never delivered, or the token of the reader does not reach forecasts
        newest = round(answer.get("origin", 0) / CONTRACT.step_seconds) - 1
        if newest < delivered:
            self.journal.report("lost_forecast", f"{history.name}: {answer!r:.200}, {delivered} was delivered")
        self.journal.count("latest_forecasts_checked")

    async def _finish(self, senders: Sequence["asyncio.Task[None]"]) -> None:
        """End all faults, send the last rows, and check that each has its forecast at each subscriber."""
        self.journal.write("finishing")
        await self._wait_subscribed()
        for sender in self.senders:
            sender.is_stopping = True
        async with asyncio.timeout(IDLE_SECONDS):
            await asyncio.gather(*senders)
        status = await self._wait_idle()
        rows = status["rows"]
        ends = sum(rows[each] for each in ("delivered", "superseded", "failed", "forgotten"))
        if rows["due"] != ends:
            self.journal.report("unbalanced_rows", f"{rows}")
        await self.check_state()
        for subscriber in self.subscribers:
            await self._check_complete(subscriber)

    async def _wait_subscribed(self) -> None:
        """Wait until every subscription is in force: one that begins later does not get the last forecasts."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                while not all(each.is_connected for each in self.subscribers):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            left = [each.plan.name for each in self.subscribers if not each.is_connected]
            self.journal.report("not_subscribed", f"{left} cannot subscribe though no fault is left")

    async def _wait_idle(self) -> dict[str, Any]:
        async with asyncio.timeout(IDLE_SECONDS), aiohttp.ClientSession(headers=self.process.headers) as session:
            while True:
                async with session.get(f"{self.process.url}/v1/status") as response:
                    status: dict[str, Any] = await response.json()
                if not status.get("due", 1) and not status["in_flight"] and not status["waiting"]:
                    return status
                await asyncio.sleep(0.1)

    async def _check_complete(self, subscriber: ChaosSubscriber) -> None:
        """Check that a subscriber that reads gets the newest forecast of each of its servers."""
        wanted = {each.name: each.closed_step for each in self.histories.values() if subscriber.wants(each.name)}
        missing: dict[str, int] = {}
        for attempt in itertools.count():
            missing = {name: step for name, step in wanted.items() if subscriber.newest.get(name, -1) < step}
            if not missing or attempt == 50:
                break
            await asyncio.sleep(0.1)
        if missing:
            self.journal.report("missing_forecast", f"{subscriber.plan.name}: {missing}, {subscriber.newest}")
        self.journal.count("subscribers_complete")

    def _read_log(self) -> None:
        """Find defects in the daemon's log."""
        for line in self.process.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if any(defect in line for defect in DEFECTS):
                self.journal.report("defect", line[:2_000])

    def summarize(self) -> dict[str, Any]:
        """Return the counts and the slopes of the run."""
        slopes = {}
        for column, name, unit, scale in ((1, "memory", "MiB", 2**20), (2, "descriptors", "descriptors", 1)):
            slopes[f"{name}_within_lives"] = self.watch.fit_within_lives(column).format_in(scale, unit)
            slopes[f"{name}_over_lives"] = self.watch.fit_over_lives(column).format_in(scale, unit)
        return {
            "seed": self.plan.seed,
            "lives": self.process.lives,
            "seconds": round(time.monotonic() - self._began, 1),
            "tokens": self.tokens.are_used,
            "checked": dict(sorted(self.journal.checked.items())),
            "findings": dict(self.journal.findings),
            "slopes": slopes,
        }


def read_result(path: Path) -> dict[str, Any]:
    """Return the summary of a run from its journal."""
    last = path.read_text(encoding="ascii").splitlines()[-1]
    summary: dict[str, Any] = json.loads(last)
    return summary
