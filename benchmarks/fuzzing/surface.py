"""Fuzzes the whole HTTP and WebSocket surface of a real daemon process: every route, damaged requests and frames, and
calls that connections serve themselves.

Checked: the daemon runs on, logs no defect, answers no 500 with the code `internal`, answers `/healthz` within a second
of its own time whatever its peers send, and its memory does not grow.
"""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TextIO

from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import CONTRACT, write_versions
from benchmarks.chaos.orders import LaneOrders, write_orders
from benchmarks.chaos.process import ChaosProcess
from benchmarks.chaos.watch import read_anonymous_bytes
from benchmarks.fuzzing.plain_requests import PlainRequestMaker, list_predict_bodies
from benchmarks.fuzzing.requests import RequestMaker, list_seed_bodies
from benchmarks.harness import read_cpu_seconds
from benchmarks.overload.probe import probe_health

PEERS = 24
ANSWER_SECONDS = 0.1
"""The time for which a peer reads what it is sent; most damaged requests get no answer while their rest is awaited."""

PROBE_SECONDS = 0.05
HANG_SECONDS = 1.0
PROGRESS_SECONDS = 30.0
MAX_GROWTH_BYTES = 64 * 2**20
"""Of anonymous memory, between the first fifth of the time and its end."""

PATIENCE_SECONDS = 60.0
"""A session that has not done enough when its time is over goes on for at most so long."""

KEPT_INPUTS = 64
DEFECTS = re.compile(rb'Traceback|"handler_failed"|"connection_failed"|"level": "critical"')
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class SurfaceSession:
    """One daemon and the peers that send to it."""

    name = "surface"

    def __init__(self, seed: int, minutes: float, log: TextIO) -> None:
        self.has_finding = False
        self.answers: Counter[str] = Counter()
        """Answers by status, and how else requests and connections ended."""
        self.inputs = 0
        self.has_done_enough: Callable[[], bool] = lambda: True
        """Whether it may end when its time is over; a slow machine does little in a short time."""
        self._seed = seed
        self._seconds = 60 * minutes
        self._log = log
        self._began = time.monotonic()
        self._recent: deque[bytes] = deque(maxlen=KEPT_INPUTS)
        self._slowest = {"seconds": 0.0, "daemon_cpu_seconds": 0.0}
        self._folder = Path(tempfile.mkdtemp(prefix="streamd-surface-"))
        orders = self._folder / "orders.json"
        write_orders(orders, LaneOrders())
        engines = write_versions(self._folder / "engines")
        journal = Journal(log)
        self.daemon = ChaosProcess(self._folder, self._folder / "state", engines, orders, journal)
        self.daemon.settings |= {"MAX_FRAME_BYTES": "65536", "MAX_BODY_BYTES": "262144", "BODY_TIMEOUT_SECONDS": "2.0"}
        self.daemon.settings["DRAIN_SECONDS"] = "1.0"  # peers that never answer are left
        self._log_offset = 0
        self._predict_bodies = list_predict_bodies(CONTRACT)

    def run(self) -> None:
        """Send until the time is over and enough is done, or there is a finding."""
        try:
            asyncio.run(self._run())
        finally:
            if self.daemon.pid is not None:
                self.daemon.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def write_start(self) -> None:
        """Log the start."""
        self._write("start", target=self.name, seed=self._seed)

    def write_end(self) -> dict[str, Any]:
        """Log the end, and return the summary."""
        summary = {
            "target": self.name,
            "seconds": round(time.monotonic() - self._began, 1),
            "inputs": self.inputs,
            "has_finding": self.has_finding,
            "slowest": self._slowest,
        }
        self._write("end", **summary, outcomes=dict(self.answers.most_common()))
        return summary

    # ------------------------------------------------------------ the run
    async def _run(self) -> None:
        await self.daemon.start()
        bodies = list_seed_bodies()
        ends_at = time.monotonic() + self._seconds
        makers = [RequestMaker(bodies, Random(f"{self._seed} {place}")) for place in range(PEERS)]
        tasks = [asyncio.create_task(self._send_until(ends_at, maker, place)) for place, maker in enumerate(makers)]
        tasks += [asyncio.create_task(self._probe_until(ends_at)), asyncio.create_task(self._watch_until(ends_at))]
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, BaseException):
                self._report("the fuzzer itself failed", cause=repr(ended))
        if self.daemon.pid is None:
            self._report("the daemon ended")
            return
        self._read_daemon_log()
        status = await self.daemon.stop()
        if status != 0:
            self._report(f"the daemon ended with {status} after SIGTERM")

    def _is_over(self, ends_at: float) -> bool:
        late_seconds = time.monotonic() - ends_at
        is_time_over = late_seconds >= 0 and (self.has_done_enough() or late_seconds >= PATIENCE_SECONDS)
        return self.has_finding or is_time_over or self.daemon.pid is None

    async def _send_until(self, ends_at: float, maker: RequestMaker, place: int) -> None:
        random = Random(f"{self._seed} cuts {place}")
        plain = PlainRequestMaker(self._predict_bodies, Random(f"{self._seed} plain {place}"))
        while not self._is_over(ends_at):
            if place % 4 == 1:
                sent = [plain.make_requests()]
            else:
                sent = [maker.make_request()] if place % 2 else [maker.make_handshake(), maker.make_frames()]
            self.inputs += 1
            self._recent.append(b"".join(sent))
            try:
                await self._exchange(sent, random)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.answers[type(error).__name__] += 1

    async def _exchange(self, sent: list[bytes], random: Random) -> None:
        """Send on a new connection, in one piece or in several, and read what comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)
        try:
            for data in sent:
                cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 3))))
                for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    writer.write(data[begin:end])
                    await asyncio.sleep(0)
            if random.random() < 0.1:
                self.answers["left at once"] += 1
                writer.transport.abort()
                return
            answer = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    while data := await reader.read(65_536):
                        answer += data if len(answer) < 100_000 else b""
            self._take_answer(answer)
        finally:
            writer.close()

    def _take_answer(self, answer: bytes) -> None:
        statuses = STATUS.findall(answer)
        self.answers.update(status.decode() for status in statuses)
        if not statuses:
            self.answers["no answer"] += 1
        if b'"internal"' in answer:
            self._report("an answer with the code internal", answer=answer[:2_000].decode("utf-8", "replace"))

    # ------------------------------------------------------------ checks
    async def _probe_until(self, ends_at: float) -> None:
        """Ask for `/healthz`; a slow answer is a finding only if the daemon itself was busy for so long."""
        while not self._is_over(ends_at) and (pid := self.daemon.pid) is not None:
            cpu = read_cpu_seconds(pid)
            status, seconds = await asyncio.to_thread(probe_health, self.daemon.port)
            spent = read_cpu_seconds(pid) - cpu if self.daemon.pid is not None else 0.0
            if seconds > self._slowest["seconds"]:
                self._slowest = {"seconds": round(seconds, 3), "daemon_cpu_seconds": round(spent, 3)}
            if status != 200:
                self._report(f"/healthz answered {status}")
            if min(seconds, spent) > HANG_SECONDS or seconds > 30 * HANG_SECONDS:
                self._report(f"/healthz took {seconds:.2f} s, of which the daemon computed {spent:.2f} s")
            await asyncio.sleep(PROBE_SECONDS)

    async def _watch_until(self, ends_at: float) -> None:
        """Read the daemon's log and its memory."""
        begin, first, shown_at = time.monotonic(), 0, 0.0
        while not self._is_over(ends_at) and (pid := self.daemon.pid) is not None:
            self._read_daemon_log()
            memory = read_anonymous_bytes(pid)
            if not first and time.monotonic() > begin + self._seconds / 5:
                first = memory
            if first and memory - first > MAX_GROWTH_BYTES:
                self._report(f"the daemon grew by {(memory - first) / 2**20:.0f} MiB")
            if time.monotonic() - shown_at > PROGRESS_SECONDS:
                shown_at = time.monotonic()
                self._write("progress", inputs=self.inputs, memory_mib=round(memory / 2**20, 1))
            await asyncio.sleep(0.5)

    def _read_daemon_log(self) -> None:
        with self.daemon.log.open("rb") as file:
            file.seek(self._log_offset)
            text = file.read()
        self._log_offset += len(text)
        if (found := DEFECTS.search(text)) is not None:
            begin = max(found.start() - 500, 0)
            self._report("a defect in the log", log=text[begin : found.end() + 4_000].decode("utf-8", "replace"))

    def _report(self, message: str, **values: Any) -> None:
        if not self.has_finding:  # the inputs before the first one are those that matter
            recent = [base64.b64encode(each).decode() for each in self._recent]
            self._write("finding", message=message, recent=recent, **values)
        self.has_finding = True

    def _write(self, event: str, **values: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._log.write(json.dumps({"time": stamp, "event": event, **values}) + "\n")
        self._log.flush()
