"""Replays captures: posts them in order, waits until their rows are closed, and reads windows and forecasts.

The daemon maps and averages the points as if they came live. Nothing is compared; `capture_report` shows what was read.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamd.tools.captures.capture import Capture, read_capture
from streamd.tools.captures.dump_requests import make_dump_requests
from streamd.tools.captures.dump_samples import DumpSamples
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.formats import FormatReader, guess_format
from streamd.tools.captures.requests import CapturedRequest, make_requests
from streamd.tools.captures.sources import list_capture_files, open_dump, read_dump
from streamd.tools.captures.survey import PointSurvey
from streamd.tools.loadtest.capture_poster import CapturePoster
from streamd.tools.loadtest.capture_result import CaptureResult, CaptureSetup, PointCounts, ReplayedServer
from streamd.tools.loadtest.daemon import DaemonClient, DaemonStatus, KnownServer
from streamd.tools.loadtest.errors import LinkLostError, UnreachableError, UsageError

MAX_READ_SERVERS = 20
"""Servers whose windows and forecasts are read."""

MAX_AHEAD_SECONDS = 3600.0
"""Points that are further ahead of the clock make no row for which to wait."""

CLOSE_POLL_SECONDS = 0.2

ShowProgress = Callable[[str], None]
"""Shows a line that replaces the one before."""


class CaptureReplay:
    """A replay of captures into one daemon, of which `status` was read before."""

    def __init__(
        self, daemon: DaemonClient, poster: CapturePoster, status: DaemonStatus, setup: CaptureSetup, show: ShowProgress
    ) -> None:
        self._daemon = daemon
        self._poster = poster
        self._setup = setup
        self._show = show
        self._step_seconds = status.contract.step_seconds
        self._agents_before = status.agents
        self._result = CaptureResult(setup=setup, status=status)
        self._survey = PointSurvey()
        self._reader = FormatReader(self._survey, time.time())
        self._dump: DumpSamples | None = None
        """The samples of the dumps since the last captured body."""

    async def run(self, stop: asyncio.Event) -> CaptureResult:
        """Post all captures and read what became of them; `stop` ends it early.

        Raises `UsageError` if a path cannot be read, and `UnreachableError` if the daemon does not answer at the start.
        """
        result = self._result
        try:
            files = list_capture_files(self._setup.paths)
        except CaptureError as error:
            raise UsageError(str(error)) from error
        known = {each.server: each for each in await self._daemon.fetch_servers()}
        try:
            result.is_interrupted = not await _run_until(stop, self._post_and_wait(files))
            result.status = await self._daemon.fetch_status()
            result.points = PointCounts.compute(self._agents_before, result.status.agents)
            await self._read_servers(known)
        except (LinkLostError, UnreachableError) as error:
            result.lost = str(error)
        return result

    # ------------------------------------------------------------ captures out
    async def _post_and_wait(self, files: Sequence[Path]) -> None:
        try:
            for file in files:
                await self._post_file(file)
            await self._post_dump()
        finally:
            self._note_survey()
            if self._dump is not None:
                self._dump.close()
        await self._wait_closed()

    async def _post_file(self, file: Path) -> None:
        """Post a captured body; the samples of a dump are kept until the next body or the end."""
        try:
            with open_dump(file) as lines:
                if lines is not None:
                    await self._read_dump(file, lines)
                    return
            await self._post_dump()
            await self._post_body(read_capture(file))
        except CaptureError as error:
            self._result.note_unreadable(str(error))

    async def _read_dump(self, file: Path, lines: Iterable[bytes]) -> None:
        if self._dump is None:
            self._dump = DumpSamples()
        self._result.dump.files += 1
        for slices, _ in enumerate(read_dump(file, lines, self._dump)):
            if slices % 100 == 0:
                self._show(f"reading {file}: {self._dump.samples:,} samples")
                await asyncio.sleep(0)

    async def _post_dump(self) -> None:
        """Post the samples of the dumps that were read, in the order of time."""
        if self._dump is None:
            return
        dump, counts = self._dump, self._result.dump
        dump.finish()
        counts.samples += dump.samples
        counts.series += len(dump.labels)
        counts.skipped.update(dump.skipped)
        counts.faults += dump.faults
        counts.listed_faults += map(str, dump.listed_faults)
        if dump.samples:
            self._result.note_times(dump.first_ms / 1000, dump.last_ms / 1000)
        for request in make_dump_requests(dump, "dump", self._step_seconds):
            await self._post(request)
        counts.repeated += dump.repeated
        dump.close()
        self._dump = None

    async def _post_body(self, capture: Capture) -> None:
        name = guess_format(capture)
        requests = list(make_requests(capture, name))
        self._result.bodies.files += 1
        with contextlib.suppress(CaptureError):  # the daemon says what is wrong
            self._reader.read(capture, name)
        for request in requests:
            await self._post(request)

    async def _post(self, request: CapturedRequest) -> None:
        began = time.monotonic()
        answer = await self._poster.post(request)
        self._result.post_seconds += time.monotonic() - began
        self._result.note_answer(request.name, answer)
        self._show(f"posted {self._result.requests:,} bodies, now {request.name}")

    def _note_survey(self) -> None:
        survey, bodies = self._survey, self._result.bodies
        bodies.points, bodies.repeated = survey.points, survey.repeated
        if survey.points:
            self._result.note_times(survey.first_time, survey.last_time)

    # ------------------------------------------------------------ rows closed
    async def _wait_closed(self) -> None:
        """Wait until the last rows had the time to close, and no row waits for its forecast."""
        step_end = self._find_newest_step_end()
        left = step_end - time.time()
        seconds = self._setup.close_seconds
        is_over = left <= seconds
        until = time.monotonic() + seconds + (max(left, 0.0) if is_over else 0.0)
        while (now := time.monotonic()) < until:
            self._show(f"waiting {until - now:.0f} s for the last rows to close")
            await asyncio.sleep(min(CLOSE_POLL_SECONDS, until - now))
        await self._wait_idle()
        if not is_over:
            self._result.open_until = step_end

    def _find_newest_step_end(self) -> float:
        """Return the epoch second at which the newest step ends, or 0."""
        last = self._result.last_time
        if last is None or last > time.time() + MAX_AHEAD_SECONDS:
            return 0.0
        return (last // self._step_seconds + 1) * self._step_seconds

    async def _wait_idle(self) -> None:
        """Wait until no row waits for its forecast, or nothing changes any more."""
        changed_at, seen = time.monotonic(), None
        while not (status := await self._daemon.fetch_status()).is_idle:
            now = (status.rows, status.due, status.in_flight)
            if now != seen:
                seen, changed_at = now, time.monotonic()
            if time.monotonic() - changed_at > self._setup.close_seconds:
                return
            self._show(f"waiting for {status.due + status.in_flight:,} forecasts")
            await asyncio.sleep(CLOSE_POLL_SECONDS)

    # ------------------------------------------------------------ windows and forecasts
    async def _read_servers(self, known: Mapping[str, KnownServer]) -> None:
        found = await self._daemon.fetch_servers()
        changed = [each for each in found if each != known.get(each.server)]
        self._result.changed_servers = len(changed)
        shown = sorted((each for each in changed if self._setup.matches(each.server)), key=lambda each: each.server)
        for each in shown[:MAX_READ_SERVERS]:
            self._result.servers.append(await self._read_server(each, known.get(each.server)))

    async def _read_server(self, server: KnownServer, before: KnownServer | None) -> ReplayedServer:
        new, features = 0, list[str]()
        if server.have:  # a window without any row has no origin
            window = await self._daemon.fetch_window(server.server)
            newest_before = -1 if before is None or not before.origin else round(before.origin / self._step_seconds) - 1
            new = sum(step > newest_before for step in window.list_steps())
            columns = zip(window.features, zip(*window.values, strict=True), strict=True)
            features = [name for name, values in columns if any(value is not None for value in values)]
        return ReplayedServer(
            name=server.server,
            have=server.have,
            new=new,
            origin=server.origin,
            features=features,
            forecast=await self._daemon.fetch_forecast(server.server),
        )


async def _run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Run a coroutine until it ends or `stop` is set; returns whether it ended."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    has_ended = task.done()
    for each in (task, stopping):
        each.cancel()
    await asyncio.wait({task, stopping})
    if not task.cancelled():
        task.result()
    return has_ended
